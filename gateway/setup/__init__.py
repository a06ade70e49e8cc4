"""`gateway init` and `gateway connect`: from a fresh machine to a configuration, and from there to a client that works.

files       model files on this machine
servers     model servers on this machine
keys        API keys in the environment
discover    the three together
plan        which of what was found becomes a model, and who is asked first
write       the YAML text, and how it gets to disk
init        the command: discover, plan, write, say what comes next
connect     the other command; one client per file in `clients/`
"""
