"""Does a shard help its reader? Before it is used, and after."""
