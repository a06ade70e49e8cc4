"""The load bench: how fast the gateway is, beside plain proxies and its peers. See docs/performance.md."""
