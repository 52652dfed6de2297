"""What `--help` says; `flowing` joins the lines of a paragraph, which the terminal breaks anew."""

import re

ABOUT = """Make a trained PyTorch model ready for a hardware compiler.

The model's graph is rewritten into the kernels that the compiler runs (TensorRT first), quantized
to INT8 where these kernels want it, and exported as an ONNX file that computes what was simulated.

Begin with [bold]embedl-deploy inspect torchvision:resnet50[/bold]: it changes nothing, and shows
what would fuse. Then [bold]embedl-deploy deploy[/bold] does the whole journey.

[bold]Models[/bold]

- [cyan]torchvision:resnet50[/cyan], [cyan]timm:convnext_atto[/cyan],
[cyan]transformers:BertForSequenceClassification[/cyan] – with random weights, and nothing is
downloaded: --weights gives them yours

- [cyan]package.module:factory[/cyan] – your own, from the current folder too: a model, or a
function without arguments that returns one

[bold]Data[/bold]

- [cyan]photos/train[/cyan] – a folder of images, searched with all folders in it

- [cyan]samples.npz[/cyan] – one array is the input, several are inputs by name; rows are samples

- [cyan]package.module:loader[/cyan] – your own: an iterable of batches such as a DataLoader, or a
function without arguments that returns one
"""

INSPECT = """Show what would fuse in a model, what would not, and why.

Nothing is written. [bold]embedl-deploy --help[/bold] says how models and data are named.

[bold]Examples[/bold]

[green]embedl-deploy inspect torchvision:resnet50[/green]

The kernels of a ResNet, grouped, with their Q/DQ points: where INT8 begins and ends.

[green]embedl-deploy inspect nets.mine:build --weights mine.pt --shape 1,28,28 --all[/green]

Your model on grey 28×28 images, every match and every refusal by itself.
"""

DEPLOY = """Make a checked INT8 ONNX file of a model.

It is transformed, quantized, exported and verified. [bold]embedl-deploy --help[/bold] says how
models and data are named.

The scales come from representative data: a few hundred samples of the training set are enough.
ONNX Runtime then runs the file beside the simulation, and it is written only if the two agree.
The first figures are those of the file against the model in floating point, of samples that did
not calibrate; with labels, top-1 and top-5 of both.

[bold]Examples[/bold]

[green]embedl-deploy deploy torchvision:resnet50 r50.onnx --weights r50.pt --data photos
--precision float16[/green]

Images are scaled and cut at the centre to 3×224×224, normalized as for ImageNet. One folder for
each class gives top-1 and top-5.

[green]embedl-deploy deploy nets.mine:build mine.onnx --data nets.mine:batches --patterns mixed
--observer percentile --dynamic-batch[/green]

Depthwise convolutions stay in floating point, outliers are cut off, the file takes any batch.
"""

RUN = """Deploy as a run file says.

A run file has options of [bold]deploy[/bold] by their names, as YAML or JSON, and its arguments as
model and output. Paths are those of the current folder. [bold]deploy --save-run[/bold] writes one.

[bold]Examples[/bold]

[green]embedl-deploy run deploy.yaml[/green]

[green]embedl-deploy deploy nets.mine:build mine.onnx --data samples.npz --save-run
mine.yaml[/green]
"""

ANALYZE = """Show which layer of a model quantization hurts, and by how much.

The model is quantized as by [bold]deploy[/bold], and nothing is written. For every quantizer and
every fused module there is the signal to noise of its own error, the share of values that are
clipped, and how large the largest value is beside the others. The worst is on top.

[bold]Examples[/bold]

[green]embedl-deploy analyze torchvision:resnet50 --weights r50.pt --data photos[/green]

[green]embedl-deploy analyze nets.mine:build --data nets.mine:batches --sensitivity[/green]

Every place is quantized alone as well, to see what it does to the model's outputs.
"""

TUNE = """Find what to quantize for a fast engine and an accurate model.

Equal layers are one group, quantized or left in half precision together. Each placement is
exported, given to NVIDIA's compiler, whose layers give an estimate of the time, and simulated. The
plan says of each group what became of it and why; [bold]deploy --plan[/bold] follows it, and you
may edit it. It keeps half precision where no placement is faster.

A search takes minutes. One that is stopped leaves the best plan so far, and goes on where it was
when it is started again with the same options.

[bold]Examples[/bold]

[green]embedl-deploy tune torchvision:resnet50 plan.json --weights r50.pt --data photos --max-drop
1[/green]

[green]embedl-deploy tune nets.mine:build plan.json --data samples.npz --min-sqnr 30 --gpu
l4[/green]

[green]embedl-deploy deploy torchvision:resnet50 r50.onnx --weights r50.pt --data photos --precision
float16 --target rtx --plan plan.json[/green]
"""

CHECK = """Check an ONNX file, of any tool, against the rules of TensorRT.

TensorRT is not needed. An error means that TensorRT refuses the file or computes something else
than it says; a warning means that it runs slower than it could. Each rule has an id, a reason, and
where that is written.

The exit status is 0 without errors (with --strict, without warnings too), and 1 otherwise.

[bold]Examples[/bold]

[green]embedl-deploy check model.onnx[/green]

[green]embedl-deploy check model.onnx --version 10.12 --strict --ignore P10 --json[/green]
"""

EXPLAIN = """Show which kernels TensorRT is expected to run for an ONNX file.

Operators are grouped by what TensorRT is documented to fuse: convolution with its activation and
the residual that it adds, Q/DQ into what computes on INT8, and what is alone, with the reason.
Of the multiply-accumulates there is the share of each type. Each kernel names its rule and how
well that is founded. TensorRT is not needed, and was not asked.

[bold]Examples[/bold]

[green]embedl-deploy explain model.onnx[/green]

[green]embedl-deploy explain model.onnx --shape image:8,3,224,224 --all[/green]
"""

VERIFY = """Compare an ONNX file, of any tool, with a model.

ONNX Runtime runs the file. The outputs are compared with those of the model in floating point:
signal to noise, whether the answers agree, the largest difference, and with labels the accuracy.
With --layers, a file of [bold]deploy[/bold] is compared with the simulation, quantizer by
quantizer. Such a file knows its model, data and options; give what is to be another.

The exit status is 0 where the signal to noise is at least --min-sqnr (with --layers, where file and
simulation differ by rounding alone), and 1 otherwise.

[bold]Examples[/bold]

[green]embedl-deploy verify model.onnx nets.mine:build --weights mine.pt --data samples.npz[/green]

[green]embedl-deploy verify r50.onnx --layers[/green]
"""

COMPARE = """Compare two ONNX files of any tools, side by side.

ONNX Runtime runs both on the same data: how outputs of the second differ from those of the first,
and layers of the same name. Beside each other are sizes, the types of the arithmetic, the kernels
that TensorRT is expected to run, and what the rules find.

The exit status is 1 where the signal to noise of an output is below --min-sqnr, and 0 otherwise.

[bold]Examples[/bold]

[green]embedl-deploy compare float.onnx int8.onnx --data samples.npz[/green]

[green]embedl-deploy compare mine.onnx theirs.onnx --all --json[/green]
"""

BUILD = """Build a TensorRT engine of an ONNX file, and say what became of it.

TensorRT 10.12 or newer has to be installed, with an NVIDIA GPU. Where it is not, the line for
[bold]trtexec[/bold] is shown that builds the same elsewhere, and --layers-from reads the layers
that it writes. Of every kernel that [bold]explain[/bold] predicts there is what became of it: one
layer as predicted, merged with others, split, or in another type.

[bold]Examples[/bold]

[green]embedl-deploy build model.onnx model.plan --min 1,3,224,224 --max 32,3,224,224[/green]

[green]embedl-deploy build model.onnx --trtexec --version 10.13[/green]

[green]embedl-deploy build model.onnx --layers-from model.plan.layers.json --strict[/green]
"""


def first(text: str) -> str:
    """The first sentence of a text, without its stop."""
    return text.partition("\n")[0].rstrip(".")


def flowing(text: str) -> str:
    """The text with each paragraph on one line."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text.strip())
