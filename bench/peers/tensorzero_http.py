"""Starts the HTTP gateway that TensorZero's wheel embeds, and writes the port that it chose to a file.

Run by the interpreter of TensorZero's own environment: `tensorzero_http.py CONFIG PORT_FILE`.
"""

import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import tensorzero  # type: ignore[import-not-found]  # installed beside that interpreter only

gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
Path(sys.argv[2]).write_text(str(urlsplit(gateway.base_url).port))
threading.Event().wait()
