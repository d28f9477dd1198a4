"""Submissions: packed, read as data, verified by recomputation, reported, added to a board.

scaffold   a new encoder, ready to run
pack       card + embeddings + claimed records -> one zip
archive    the zip, read to memory under limits; parsing: JSON, YAML, safetensors as data
bundle     what a zip claims, well-formed or refused
verify     the ladder V0 to V3; recompute and reencode do its work
add        verified records into a results folder
report     what a reviewer reads; suspicion and duplicates find what to look at
"""
