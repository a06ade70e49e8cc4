"""Coverage-guided fuzzing: `targets.py` says what is fuzzed, `__main__.py` runs it with atheris, `corpus/` keeps inputs
that between them reach all that was ever reached. tests/test_fuzz_corpus.py replays those, without atheris."""
