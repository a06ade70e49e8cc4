"""YAML to live objects, in two phases: `spec.py` says what may be written, `build.py` resolves it. Every fault is found
here, with file, line and key, before a request finds it."""
