"""What EoMT is measured against: ViT-Adapter + Mask2Former, and the steps from there to EoMT.

Step 0 is the whole, each further step is the one before minus a part:

    0  ViT-Adapter + Mask2Former
    1  without adapter: a simple pyramid of the ViT's last features
    2  without pixel decoder: the pyramid goes straight to the Transformer decoder
    3  without multi-scale: the Transformer decoder sees the ViT's own resolution only
    4  without Transformer decoder: EoMT, with masked attention
    5  without masking: EoMT

Reference: "Your ViT is Secretly an Image Segmentation Model", CVPR 2025, https://arxiv.org/abs/2503.19108, section 3.1
and tables 1 and 2.
"""

from .configuration import BaselineConfig
from .modeling import BaselineForUniversalSegmentation
from .steps import STEPS, stepwise_model


__all__ = ["STEPS", "BaselineConfig", "BaselineForUniversalSegmentation", "stepwise_model"]
