"""From embeddings, labels and splits to predictions and scores; encoders are unknown here."""
