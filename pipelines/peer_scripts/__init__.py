"""Programs that `pipelines.peers` runs in the peers' own environments: they import the peer and nothing of ours.

Each is called as `SCRIPT OPTIONS RESULT`: two paths. OPTIONS holds JSON: `images` (a folder), `work` (an empty folder)
and the peer's own options. It writes RESULT, JSON: `seconds` that the peer took without its import, `read`, how many
pictures it read, and `pairs`, a list of (file name, file name).
"""
