"""Recipes: one YAML file each, read by `hrm.settings.load_preset`. A preset may name its parent."""
