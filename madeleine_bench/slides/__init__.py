"""From whole-slide images to bags: reading, tissue, patches, patch encoders."""
