"""The methods, one final class a file. `METHODS` maps a name to "module:Class"; nothing is imported before its use."""

METHODS = {
    "finetune": "perdure.methods.finetune:Finetune",
    "joint": "perdure.methods.joint:Joint",
    "independent": "perdure.methods.independent:Independent",
    "heads": "perdure.methods.heads:Heads",
    "l2": "perdure.methods.l2:L2",
    "ewc": "perdure.methods.ewc:EWC",
    "online-ewc": "perdure.methods.online_ewc:OnlineEWC",
    "si": "perdure.methods.si:SI",
    "er": "perdure.methods.er:ER",
    "a-gem": "perdure.methods.a_gem:AGEM",
    "packnet": "perdure.methods.packnet:PackNet",
    "piggyback": "perdure.methods.piggyback:Piggyback",
    "supsup": "perdure.methods.supsup:SupSup",
    "hopsupsup": "perdure.methods.hopsupsup:HopSupSup",
    "batch-ensemble": "perdure.methods.batch_ensemble:BatchEnsemble",
    "psp": "perdure.methods.psp:PSP",
    "hat": "perdure.methods.hat:HAT",
    "cpg": "perdure.methods.cpg:CPG",
}
