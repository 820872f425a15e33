"""An agent inside `transformers.Trainer`."""
