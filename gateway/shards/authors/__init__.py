"""Who writes shards: `examples` takes them from what larger models answered and needs no model; `model` asks a large
model to write."""
