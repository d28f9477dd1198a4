"""Embeddings of a cohort: computed in shards, cached by content, averaged to units."""
