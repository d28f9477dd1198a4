"""From records to a board."""
