"""What is kept on disk: one database under `GATEWAY_HOME`, its tables and migrations, the journal and the ratings."""
