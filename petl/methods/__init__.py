"""What a method is (`method.py`), the methods by name (`registry.py`), and one file per method; a large method has further
files, with its name in front (`lora_weights.py`, `peft_fields.py`). Importing the package registers all methods.
"""

from petl.methods.adapter import Adapter
from petl.methods.bias import Bias
from petl.methods.bn import BN
from petl.methods.full import Full
from petl.methods.input import Input
from petl.methods.lora import LoRA
from petl.methods.norm import Norm
from petl.methods.partial import Partial
from petl.methods.peft import Peft
from petl.methods.probe import Probe

__all__ = ["BN", "Adapter", "Bias", "Full", "Input", "LoRA", "Norm", "Partial", "Peft", "Probe"]
