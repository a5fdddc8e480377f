"""The service: BentoML and Gradio over `leap_zoo`. Never imports torch, `train` or `export`."""
