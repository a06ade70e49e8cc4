"""Several processes that serve one port: a supervisor has the engines, the limits of keys and the journal, and workers
answer requests. They speak by messages (`channel.py`). What a worker holds, its supervisor lets go when it dies.
"""
