"""One safetensors file per task: what trained, and the recipe that says where it belongs."""
