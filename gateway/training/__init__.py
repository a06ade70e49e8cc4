"""Small models trained on what larger ones answered: LoRA adapters over a model that runs here."""
