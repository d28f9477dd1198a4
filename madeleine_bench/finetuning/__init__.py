"""Fine-tuning: the network of an encoder and a head, trained on the bags of each training fold."""
