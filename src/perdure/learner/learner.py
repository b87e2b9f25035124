"""The learner on disk: a folder that learns a task today and another in a month, and answers for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure import tree
from perdure.contract import Answer, Method, Refused, unknown
from perdure.data import blocks
from perdure.fold import Setting
from perdure.learner.archive import Archive
from perdure.learner.intake import Array, Given, aligned, is_table, read
from perdure.learner.intake.given import listed
from perdure.learner.ledger import HEAD, Entry, Ledger, lineage, numbered_entry, older
from perdure.learner.loaded import Loaded, check_size, load
from perdure.learner.novelty import Relation, doubt, fits, relation
from perdure.learner.policy import Change, Policy, changes, objections
from perdure.learner.pool import Pool
from perdure.learner.report import Check, Explanation, Report, fingerprint, kept_bytes
from perdure.learner.settings import Scaling, Settings, read_settings, store_settings
from perdure.learner.update import Lesson, answered, examined, lesson, projected, relation_of, shown, updated, without
from perdure.learner.version import KINDS, NAME, Branch, Label, Version, is_name, numbered
from perdure.options import method_class
from perdure.program import Program, check_suffix, export
from perdure.rng import fold
from perdure.store import ASIDE, is_blob, locked, save_state
from perdure.train import Progress, watching

LOCK = "lock"
UNTOLD = 0.1  # by how much an accuracy must fall without the task's name to be spoken of


class Learner:
    """A learner in a folder.

    Whoever reads sees the newest version whole; one at a time writes. A kill at any moment leaves the version before or
    the version after.

    Args:
        folder: of a learner that was made with `Learner.create`.
        wait: seconds to wait for another process that is writing, where one is; it is refused after that.
        device: auto, cpu or cuda.

    Raises:
        Refused: the folder holds no learner, or one whose newest entry or settings are damaged. A version is read when
            it is asked, so that another can be gone back to where it is damaged.
    """

    settings: Settings
    policy: Policy

    def __init__(self, folder: str | Path, *, wait: float = 0.0, device: str = "cpu") -> None:
        self.folder, self.wait, self.setting = Path(folder), wait, Setting(device=device)
        self.ledger = Ledger(self.folder)
        self._loaded: Loaded | None = None
        self._newest()
        self.archive = Archive(self.ledger, (*KINDS, *method_class(self.settings.method).states))

    @classmethod
    def create(
        cls,
        folder: str | Path,
        method: str = Settings.method,
        net: str = Settings.net,
        *,
        byte_budget: int | str | None = None,
        policy: Policy = Policy(),
        scaling: Scaling = Settings.scaling,
        keep: int = Settings.keep,
        exam: int = Settings.exam,
        size: int = Settings.size,
        ids: bool = Settings.ids,
        seed: int = Settings.seed,
        store_no_data: bool = Settings.store_no_data,
        options: dict[str, Any] | None = None,
    ) -> Learner:
        """Makes a learner in a new or empty folder; arguments as in `Settings` and `Policy`.

        Raises:
            Refused: the folder holds something, or an argument cannot be used.
        """
        settings = Settings(method, net, scaling, keep, exam, size, ids, seed, store_no_data, options or {})
        if byte_budget is not None:
            policy = replace(policy, byte_budget=byte_budget)
        ledger = Ledger(folder := Path(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"{folder} cannot be made ({error.strerror}); choose another folder") from error
        ours = {LOCK, "blobs", HEAD, HEAD + ASIDE}  # what a creation that was killed may have left
        others = [path.name for path in folder.iterdir() if path.name not in ours]
        others += [f"blobs/{path.name}" for path in folder.glob("blobs/*") if not is_blob(path.name)]
        if others:
            raise Refused(f"{folder} holds other files ({min(others)}); choose a new or an empty folder")
        with locked(folder / LOCK):
            if (folder / HEAD).exists():
                raise Refused(f"{folder} holds a learner; open it, or choose another folder")
            version = save_state(ledger.blobs, Version()).name
            ledger.append("created", None, settings=store_settings(ledger, settings, policy), version=version)
        return cls(folder)

    def __repr__(self) -> str:
        """Which one it is; it may be too damaged to say more."""
        return f"Learner({str(self.folder)!r}, {self.settings.method} on {self.settings.net})"

    @property
    def version(self) -> Version:
        """The version that answers now."""
        return self._load().version

    @property
    def tasks(self) -> dict[str, list[Label]]:
        """The labels of every task that is known, by name."""
        return {
            task.name: [label for number in task.classes.tolist() if (label := branch.labels[number]) is not None]
            for branch in self.version.branches
            for task in branch.tasks
        }

    def learn(
        self,
        data: Any,
        name: str | None = None,
        *,
        validation: float | Any = 0.2,
        label: str | None = None,
        exams: Mapping[str, Any] = {},
        promote: bool = True,
        watch: Callable[[Progress], None] = lambda progress: None,
    ) -> Report:
        """Learns a task: a candidate is trained beside the version that answers, examined, judged, and promoted or not.

        Args:
            data: (X, y), or a file or folder as in `intake.read`.
            name: of the task; that of a known task teaches it more. task-1, task-2, ... when not given.
            validation: the share of every class that is held back for the task's exam, or the exam's own data. A class
                of one example keeps it for training.
            label: the column of labels in a table; also in those of `validation` and `exams`.
            exams: your own of old tasks, by name, where none is stored: their answers before and after are compared.
            promote: let the policy decide; otherwise the candidate waits for `promote`.
            watch: called with the progress of learning.

        Raises:
            Refused: the data cannot be used, the task cannot be learned, or the byte budget will not hold it. Nothing
                has changed.
        """
        begun = time.perf_counter()
        given = self._given(data, label)
        asked = self._asked(validation, label)
        with self._writing() as head:
            now = self._load()
            name = self._named(name, now.version)
            number = head.number + 1
            key = fold(self.settings.seed, "update", number)
            if (home := now.version.branch_for(given.signature)) is not None:
                given = aligned(given, home.signature)
            it = lesson(self.ledger.blobs, now.version, name, given, asked, self.policy.least, self.settings, key)
            method = self._cut(self.settings.suited(it.branch.signature.shape), len(it.fresh.y) + len(it.again.y))
            self._check_lesson(it, method)
            brought = self._brought(exams, now.version, label)
            with self.setting.applied(method.net), watching(watch):
                self._check_budget(it, method, head, key)
                looking = time.perf_counter()
                known = any(usual.limit < inf for usual in it.branch.usual.values())
                looks, like = (None, "")
                if known and home is not None:
                    ready = now.ready(now.version.branches.index(home))  # made already, when the version was read
                    looks, like = relation_of(method, ready, it.branch, it.fresh, key)
                before = self._rights(method, it.branch, brought) if it.branch.tasks else {}
                looked = time.perf_counter() - looking
                outcome = updated(method, self.ledger.blobs, it, self.settings, key, now.device, brought)
            stored, size = self._stored(now.version.with_(outcome.branch))
            changed = changes(before, outcome.rights)
            reasons = objections(self.policy, changed, size)
            if not promote:
                reasons = (*reasons, "it waits to be promoted")
            own = outcome.rights[name]
            spent = {"learn": outcome.learn_seconds, "exams": outcome.exam_seconds + looked}
            report = Report(
                number=number,
                task=name,
                verdict="kept back" if reasons else "promoted" if len(own) else "unexamined",
                reasons=reasons,
                examples=len(it.fresh.y),
                asked=len(own),
                accuracy=float(own.mean()) if len(own) else None,
                given=outcome.given,
                looked=looks.verdict if looks else "",
                like=like,
                fit=looks.share if looks else None,
                changes={task: change for task, change in changed.items() if change.flips or change.gains},
                nbytes=size,
                seconds=spent | {"rest": time.perf_counter() - begun - sum(spent.values())},
                notes=self._notes(own.mean() if len(own) else None, outcome.given),
                row={task: round(float(right.mean()), 4) for task, right in outcome.rights.items() if len(right)},
                components=tree.components(outcome.branch.state) | {"examples": kept_bytes(outcome.branch)},
                data=fingerprint(given),
            )
            if reasons:
                self.ledger.append("kept back", head, candidate=stored, base=head.number, report=report.to_json())
            else:
                self.ledger.append("learned", head, version=stored, report=report.to_json())
        return report

    def predict(self, data: Any, task: str | None = None, *, label: str | None = None) -> Array:
        """(n,) labels of inputs; the task of each is inferred unless it is named.

        Args:
            data: X, or a file or folder as in `intake.read`.

        Raises:
            Refused: inputs like these were never learned, or there is no such task.
        """
        branch, (numbers,) = self._answered(data, task, label, lambda branch, answer: (_labels(answer),))
        return branch.words[numbers]

    def explain(self, data: Any, task: str | None = None, *, label: str | None = None) -> Explanation:
        """Labels of inputs, the task that each was taken to be of, how sure its label is, and whether it fits.

        Raises:
            Refused: as `predict`.
        """

        def say(branch: Branch, answer: Answer) -> tuple[Tensor, ...]:
            labels, taken = _labels(answer), answer.task
            if task is not None:
                (index,) = (known.index for known in branch.tasks if known.name == task)
                taken = torch.full_like(labels, index)
            sure = answer.logits.softmax(1).amax(1)
            return labels, _places(branch, labels, taken), sure, fits(doubt(answer), taken, branch.usual)

        branch, (labels, places, sure, fit) = self._answered(data, task, label, say)
        names = np.array(["", *(known.name for known in branch.tasks)])
        return Explanation(branch.words[labels], names[places + 1], sure, fit)

    def relation(self, data: Any, *, label: str | None = None) -> Relation:
        """Whether inputs, taken together, are known, drifted or new: by the rule of `perdure.learner.novelty`.

        Raises:
            Refused: as `predict`.
        """

        def say(branch: Branch, answer: Answer) -> tuple[Tensor, ...]:
            return (doubt(answer),) if answer.task is None else (doubt(answer), answer.task)

        branch, parts = self._answered(data, None, label, say)
        doubts, *tasks = map(torch.from_numpy, parts)
        return relation(doubts, tasks[0] if tasks else None, branch.usual)

    def check(self, exams: Mapping[str, Any] = {}, *, label: str | None = None) -> Check:
        """Reads everything there is, and asks every exam of the version that answers again.

        Args:
            exams: your own of tasks that have none stored, by name: compared with the accuracy that was found when the
                version that answers was made, or one that it comes from.
            label: the column of labels in those that are tables.

        Raises:
            Refused: an exam that was brought cannot be asked.
        """
        problems, notes = self.archive.problems()
        tasks: dict[str, Change] = {}
        if not problems:
            self._newest()
            now = self._load()
            brought = self._brought(exams, now.version, label)
            for branch, method in zip(now.version.branches, now.methods, strict=True):
                with self.setting.applied(method.net):
                    again = examined(method, self.ledger.blobs, branch, self.settings.ids, brought)
                tasks |= changes(branch.rights, {name: found.right for name, found in again.items()})
                tasks |= self._since({name: found.right for name, found in again.items() if name in brought})
            for reason in objections(replace(self.policy, byte_budget=None), tasks, 0):
                problems.append(f"{reason}: it is answered otherwise than when this version was made")
            if any(change.flips or change.gains for change in tasks.values()):
                notes.append("some answers are not those of the machine that made this version")
        return Check(tuple(problems), tuple(notes), tasks)

    def history(self) -> list[Entry]:
        """Everything that was ever done, the newest first.

        Raises:
            Refused: the ledger is damaged.
        """
        return list(self.ledger.entries())

    def rollback(self, to: int | None = None) -> Entry:
        """Lets an older version answer again; the newer ones stay, and can be gone back to as well.

        Args:
            to: the number of the entry after which things should be as they were; when not given, the version
                before the one that answers, and before that one when asked again.

        Raises:
            Refused: there is no such entry, or its version was pruned.
        """
        with self._writing() as head:
            entries = list(self.ledger.entries())
            target = older(entries) if to is None else numbered_entry(entries, to)
            self.archive.check_left(target.number, target.version)
            return self.ledger.append("rolled back", head, version=target.version, base=target.number)

    def promote(self, candidate: Report | int) -> Entry:
        """Lets a candidate that was kept back answer.

        Args:
            candidate: the report of it, or its number.

        Raises:
            Refused: it is no candidate, or another version answers than the one that it was made from.
        """
        number = candidate if isinstance(candidate, int) else candidate.number
        with self._writing() as head:
            entries = list(self.ledger.entries())
            entry = numbered_entry(entries, number)
            if not entry.candidate or entry.base is None:
                raise Refused(f"entry {number} is no candidate that was kept back")
            base = numbered_entry(entries, entry.base)
            if base.version != head.version:
                raise Refused(
                    f"candidate {number} was made from the version of entry {base.number}, and another answers now; "
                    "learn the task again, or roll back to that one first"
                )
            self.archive.check_left(number, entry.candidate)
            return self.ledger.append("promoted", head, version=entry.candidate, base=number)

    def forget(self, name: str, *, purge: bool = False) -> Entry:
        """Lets a version answer that never knew a task.

        Args:
            purge: also delete every other version, and with them all that was stored of the task: there is no way back.

        Raises:
            Refused: there is no such task, or the method cannot forget one alone.
        """
        with self._writing() as head:
            now = self._load()
            home = now.version.branch_of(name)
            if home is None:
                raise unknown("task", name, now.version.tasks)
            method = self.settings.suited(home.signature.shape)
            try:
                with self.setting.applied(method.net):
                    branch = without(method, self.ledger.blobs, home, name, self.settings.ids)
            except Refused as error:
                raise Refused(f"{error}{self._before(name)}") from error
            stored, _ = self._stored(now.version.with_(branch))
            entry = self.ledger.append("forgotten", head, version=stored, report={"task": name})
            return self.archive.prune(entry, 1)[0] if purge else entry

    def change_policy(self, policy: Policy) -> Entry:
        """Lets another policy judge what is learned from now on, and what `check` finds; what answers, answers on.

        Raises:
            Refused: the version that answers takes more bytes than the new budget.
        """
        with self._writing() as head:
            if reasons := objections(policy, {}, self.archive.nbytes(head.version)):
                raise Refused(f"the version that answers does not keep it: {reasons[0]}; forget a task, or allow more")
            stored = store_settings(self.ledger, self.settings, policy)
            entry = self.ledger.append("policy changed", head, settings=stored)
            self.policy = policy
            return entry

    def export(self, path: str | Path, task: str | None = None) -> Program:
        """Writes what is answered to inputs of a task as one file that needs no Perdure: see `perdure.program`.

        Args:
            path: ends in `.pt2` for a program of torch, or in `.onnx`.
            task: by name. Without one all labels of the inputs compete, if the method need not find the task first.

        Raises:
            Refused: there is no such task, or no program can be made of what is answered. Nothing is written then.
        """
        check_suffix(path := Path(path))
        now = self._load() if self.setting.where.type == "cpu" else Learner(self.folder)._load()
        version = now.version
        if task is not None and task not in version.tasks:
            raise unknown("task", task, version.tasks)
        if not version.branches:
            raise Refused(f"{self.folder} has learned nothing yet, so there is nothing to export; learn a task first")
        if task is None and len(version.branches) > 1:
            kinds = f"{len(version.branches)} kinds of inputs were learned, and a program takes one"
            raise Refused(f"{kinds}; name a task of: {listed(version.tasks)}")
        branch = version.branches[0] if task is None else version.branch_of(task)
        assert branch is not None
        place, words = version.branches.index(branch), branch.words.tolist()
        id = None if task is None else version.tasks[task].id
        about = {"task": task, "kind": branch.signature.kind, "columns": branch.signature.columns}
        shape = branch.signature.shape
        return export(path, now.methods[place], now.ready(place), shape, branch.scale, id, words.__getitem__, about)

    def prune(self, versions: int = 1) -> int:
        """Deletes all but the newest versions, those that answered and those that did not; the bytes that freed.

        Args:
            versions: how many to keep; the one that answers is the first.
        """
        if versions < 1:
            raise Refused(f"versions is {versions}; the one that answers must stay")
        with self._writing() as head:
            return self.archive.prune(head, versions)[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the folder, all versions together."""
        return sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file())

    # what stands behind the verbs

    def _given(self, data: Any, label: str | None) -> Given:
        return read(data, label=label, size=self.settings.size)

    def _asked(self, validation: Any, label: str | None) -> float | Given:
        """What an exam is to be made of."""
        if not isinstance(validation, Real):
            return self._given(validation, label if is_table(validation) else None)
        if not 0 <= (share := float(validation)) < 1:
            raise Refused(f"validation is {validation}; it is a share from 0 to below 1, or data")
        return share

    def _answered(
        self, data: Any, task: str | None, label: str | None, say: Callable[[Branch, Answer], tuple[Tensor, ...]]
    ) -> tuple[Branch, list[Array]]:
        """The branch that answers for inputs, and all that is said of its answers, joined."""
        now = self._load()
        known = {name for branch in now.version.branches for name in branch.signature.columns}
        given = read(data, label=label, size=self.settings.size, labelled=False, wanted=known)
        place = self._place(now, given, task)
        branch, method = now.version.branches[place], now.methods[place]
        given = aligned(given, branch.signature)
        id = None if task is None else now.version.tasks[task].id
        n = given.x.shape[0]
        examples, said = shown(branch, Pool(given.x, torch.zeros(n, dtype=torch.int64))), []
        with self.setting.applied(method.net):
            ready = now.ready(place)
            for x, *_ in blocks(examples, now.device):
                said.append(say(branch, answered(method, ready, branch, x, id)))
        return branch, [torch.cat(parts).cpu().numpy() for parts in zip(*said, strict=True)]

    def _brought(self, exams: Mapping[str, Any], version: Version, label: str | None) -> dict[str, Pool]:
        """Exams that a user brings for tasks that have none stored."""
        out = {}
        for name, data in exams.items():
            if (branch := version.branch_of(name)) is None:
                raise unknown("task", name, version.tasks)
            if version.tasks[name].exam:
                raise Refused(f"{name} has an exam of its own; only tasks without one take one that is brought")
            given = aligned(self._given(data, label if is_table(data) else None), branch.signature)
            labels, y = numbered(branch.labels, given.y) if given.y is not None else ((), torch.empty(0))
            if given.signature != branch.signature or labels != branch.labels:
                raise Refused(f"the exam of {name} must be {branch.signature}, and ask labels that were learned")
            out[name] = Pool(given.x, y)
        return out

    def _rights(self, method: Method, branch: Branch, brought: Mapping[str, Pool]) -> dict[str, Array]:
        """Which of its exams a branch answers rightly: as it was found, and those that are brought now."""
        own = [task for task in branch.tasks if task.name in brought]
        if not own:
            return branch.rights
        asked = examined(method, self.ledger.blobs, branch, self.settings.ids, brought)
        return branch.rights | {task.name: asked[task.name].right for task in own}

    def _since(self, rights: Mapping[str, Array]) -> dict[str, Change]:
        """What happened to tasks since an exam of theirs was last asked, as far as two accuracies tell."""
        out, entries = dict[str, Change](), list(self.ledger.entries()) if rights else []
        for entry in lineage(entries) if entries else ():
            for name in (rights.keys() & entry.report.get("row", {}).keys()) - out.keys():
                before, now = float(entry.report["row"][name]), float(rights[name].mean())
                out[name] = Change(before, now, max(0.0, before - now), max(0.0, now - before), len(rights[name]))
        return out

    def _stored(self, version: Version) -> tuple[str, int]:
        """Stores a version that can be read again; its name, and its bytes with those of its examples."""
        check_size("what would be known then", version, self.settings)
        return self.archive.write(version)

    def _newest(self) -> Entry:
        """The newest entry; by its policy, which may be another process's, is judged from here on."""
        entry = self.ledger.newest()
        self.settings, self.policy = read_settings(self.ledger, entry)
        return entry

    def _load(self) -> Loaded:
        """The version that answers now; read again only when it is another."""
        entry = self.ledger.newest()
        while self._loaded is None or self._loaded.name != entry.version:
            try:
                self._loaded = load(self.archive, entry.version, self.settings, self.setting.where)
            except Refused as error:
                if (newer := self.ledger.newest()).name == entry.name:
                    back = f"perdure learner rollback {self.folder}"
                    raise Refused(f"{error}. Restore it from a copy, or go back to an older one: {back}") from error
                entry = newer  # what we were reading was pruned meanwhile
        return self._loaded

    @contextmanager
    def _writing(self) -> Iterator[Entry]:
        """Holds the folder against other writers; the newest entry."""
        with locked(self.folder / LOCK, self.wait):
            yield self._newest()

    def _named(self, name: str | None, version: Version) -> str:
        """A name that a task may have."""
        if name is None:
            return next(new for n in range(len(version.tasks) + 1) if (new := f"task-{n + 1}") not in version.tasks)
        if not is_name(name) or name.isspace():
            of = f"it has 1 to {NAME} characters that can be printed, and not only blanks"
            raise Refused(f"{str(name)[:NAME]!r} is no name for a task: {of}")
        return str(name)

    def _cut(self, method: Method, examples: int) -> Method:
        """The method with a batch that is no larger than a task."""
        too_large = method.fit.batch is not None and method.fit.batch > examples
        return method.with_(fit=replace(method.fit, batch=examples)) if too_large else method

    def _check_lesson(self, it: Lesson, method: Method) -> None:
        """Refuses a lesson that cannot be learned."""
        if len(it.fresh.y) < self.policy.least:
            raise Refused(f"{len(it.fresh.y)} examples to learn are fewer than the {self.policy.least} of the policy")
        shown = torch.cat([it.fresh.y, it.again.y])
        lacking = it.known.classes[~torch.isin(it.known.classes, shown)]
        if len(lacking) and method.isolates:
            label = it.branch.labels[int(lacking[0])]
            raise Refused(
                f"{self.settings.method} learns a known task anew, and this learner keeps no examples (keep 0): give "
                f"examples of all its labels; there is none of {label!r}"
            )

    def _check_budget(self, it: Lesson, method: Method, head: Entry, key: int) -> None:
        """Refuses a lesson that would leave more bytes than there may be, before it is learned."""
        if self.policy.byte_budget is None:
            return
        now = self.archive.nbytes(head.version)
        budget, more = int(self.policy.byte_budget), projected(method, it, self.settings, key, self.setting.where)
        if now + more > budget:
            raise Refused(
                f"{it.known.name} would take {max(more, 0):,} bytes more than the {now:,} in use, and the budget is "
                f"{budget:,}; forget a task, keep fewer examples, or make a learner with a larger one"
            )

    def _place(self, now: Loaded, given: Given, task: str | None) -> int:
        """The place of the branch that answers for inputs."""
        version = now.version
        if task is not None and task not in version.tasks:
            raise unknown("task", task, version.tasks)
        branch = version.branch_for(given.signature, more=True) if task is None else version.branch_of(task)
        if branch is None:
            known = "; ".join(map(str, (branch.signature for branch in version.branches))) or "nothing yet"
            raise Refused(f"no task was learned from {given.signature}; this learner knows {known}")
        if aligned(given, branch.signature).signature != branch.signature:
            raise Refused(f"{task} was learned from {branch.signature}, and these are {given.signature}")
        return version.branches.index(branch)

    def _notes(self, accuracy: float | None, given: float | None) -> tuple[str, ...]:
        """What to know of a task that was learned."""
        if accuracy is None or given is None or given - accuracy < UNTOLD:
            return ()
        hint = "name the task when you ask, or take a method that tells such tasks apart"
        return (f"{accuracy:.0%} of its exam is answered rightly without its name, and {given:.0%} with it: {hint}",)

    def _before(self, name: str) -> str:
        """Where to go back to, to be rid of a task."""
        with_it = None
        for entry in self.ledger.entries():
            try:
                if name not in self.archive.read(entry.version).tasks:
                    break
            except Refused:  # pruned
                return ""
            with_it = entry
        else:
            return ""
        return f": perdure learner rollback {self.folder} {entry.number}" if with_it else ""


def _labels(answer: Answer) -> Tensor:
    """(B,) the numbers of the likeliest labels."""
    return answer.labels[answer.logits.argmax(1)]


def _places(branch: Branch, labels: Tensor, tasks: Tensor | None) -> Tensor:
    """(B,) the place of each input's task, by its index, or else of the only one that has its label; -1 for none."""
    if tasks is not None:
        indices, order = torch.tensor([known.index for known in branch.tasks]).sort()
        at = torch.searchsorted(indices, tasks.cpu()).clamp_(max=len(indices) - 1)
        return order[at].where(indices[at] == tasks.cpu(), -1)
    by = torch.full((len(branch.labels),), -1)
    owners = torch.zeros_like(by)
    for place, known in enumerate(branch.tasks):
        owners[known.classes] += 1
        by[known.classes] = place
    return by.where(owners == 1, -1)[labels.cpu()]
