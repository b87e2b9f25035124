"""The methods, one final class a file. `METHODS` maps a name to "module:Class"; nothing is imported before its use."""

METHODS = {
    "finetune": "perdure.methods.finetune:Finetune",
    "joint": "perdure.methods.joint:Joint",
    "ewc": "perdure.methods.ewc:EWC",
    "er": "perdure.methods.er:ER",
    "packnet": "perdure.methods.packnet:PackNet",
}
