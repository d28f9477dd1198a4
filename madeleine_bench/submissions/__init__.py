"""Submissions: packed, read as data, verified by recomputation, reported, added to a board.

scaffold   a new encoder, ready to run
pack       card + embeddings + claimed records -> one zip
parsing    zip, JSON, YAML and safetensors of third parties, read to memory under limits, as data
bundle     what a zip claims, well-formed or refused
claims     V0: what contradicts the bundle itself; V1: what differs from a recomputed record
verify     the ladder V0 to V3, under a deadline
report     what a reviewer reads; suspicion and duplicates say what to look at
add        verified records into a results folder
"""
