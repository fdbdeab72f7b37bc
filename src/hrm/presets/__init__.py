"""Recipes: one YAML file each, read by `hrm.config.load_preset`. A preset may name its parent."""
