"""The operations table: every operation the canonical graph normalises, with its spellings.

To teach the library a spelling, add it to its row; to teach it an operation, add a row.
"""

from embedl_deploy.graph.ops.activations import ACTIVATIONS, DROPOUTS
from embedl_deploy.graph.ops.arithmetic import ARITHMETIC
from embedl_deploy.graph.ops.layers import LAYERS
from embedl_deploy.graph.ops.layout import LAYOUT
from embedl_deploy.graph.ops.pooling import POOLING, RESAMPLING
from embedl_deploy.graph.rows import Table

TABLE = Table((*ACTIVATIONS, *DROPOUTS, *LAYERS, *POOLING, *RESAMPLING, *ARITHMETIC, *LAYOUT))
