touch "$0.ran"
