"""The runs of a study, each from top to bottom: data, model, training, reload, measure."""
