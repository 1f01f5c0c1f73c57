"""Data sets, batch plans and transforms of the recipes: local folders and embedded images."""
