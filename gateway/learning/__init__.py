"""From the journal and feedback to learned numbers: `$GATEWAY_HOME/learned/*.yaml`. Fitting is a pure function."""
