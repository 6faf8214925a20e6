//! The configuration: the only code that knows TOML.
