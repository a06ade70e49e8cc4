"""Coverage-guided fuzzing: `targets.py` says what is fuzzed, `__main__.py` runs it with atheris, `corpus/` keeps inputs
that broke something or reach most of the code. tests/test_fuzz_corpus.py replays those, without atheris."""
