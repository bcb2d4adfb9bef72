"""Hands what petl has trained to other libraries and takes theirs: adapters of peft both ways, ONNX, torch.export."""
