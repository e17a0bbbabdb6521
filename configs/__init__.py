"""Whole presets in YAML; read them with `xraygen.config.load_config`."""
