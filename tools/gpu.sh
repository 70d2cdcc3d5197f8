#!/usr/bin/env bash
# Everything that wants a GPU, on a bare machine with torch and no network, in under nine minutes:
#     bash tools/gpu.sh [--out FOLDER]      # on the machine with the GPU; FOLDER is gpu_results
#     bash tools/gpu.sh --dry [--out FOLDER]  # on any CPU: the same steps in small, and tests only collected
#     ... --only STEP [STEP ...]            # some steps alone: wheels nvrtc nvcc ops_of_mmcv train_amp parity R06
#         lif_bf16 lif_fp32 lif_small_nvcc lif_small_nvrtc step_bf16 memory_bf16
# Writes a log a step, the benchmarks' JSON, and summary.md and summary.json. Goes on after a failure; what did not run reads "not run",
# what its time ended "stopped". Exit code 1 where a step failed.
#
# The machine needs Python and torch, and for nvcc's part CUDA's toolkit. What else mmsnn needs is carried as wheels in the folder wheels/ of
# the repository (git ignores it, or set WHEELS), and installed from there without a network, into a folder of their own beside the machine's
# torch. To fill it where there is a network, in an environment in which mmsnn's tests run:
#     pip freeze --exclude-editable | grep -viE '^(torch|torchvision|triton|nvidia|cuda)' > wheels.txt
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
#         -d wheels -r wheels.txt           # for the Python of the GPU machine
# torchvision has to fit its torch: carry that, too, if the machine has none. Of mmcv take mmcv-lite: mmsnn supplies the compiled ops.
set -u
cd "$(dirname "$0")/.."
ROOT=$PWD OUT=$PWD/gpu_results DRY= ONLY= START=$SECONDS
while [ $# -gt 0 ]; do
  case $1 in
    --dry) DRY=1 ;;
    --only) while [ $# -gt 1 ] && [ "${2#--}" = "$2" ]; do ONLY="$ONLY $2 "; shift; done ;;
    --out) mkdir -p "$2"; OUT=$(cd "$2" && pwd); shift ;;
    *) echo "gpu.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
# a CPU is slow, and what it does there is no measurement
BUDGET=${BUDGET:-$([ -n "$DRY" ] && echo 3600 || echo 520)}
mkdir -p "$OUT"
ROWS=$OUT/rows.tsv
: > "$ROWS"
PY=${PYTHON:-python3}
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}

row() {  # name, outcome, seconds, remark
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >> "$ROWS"
  printf '%-22s %-8s %4ss  %s\n' "$1" "$2" "$3" "$4"
}

# step NAME SECONDS COMMAND...: runs it for so long, within what is left of the budget; exit code 77 says that it could not run
step() {
  local name=$1 limit=$2 left=$((BUDGET - SECONDS + START)) begun=$SECONDS code
  shift 2
  if [ -n "$ONLY" ] && [ "${ONLY/ $name /}" = "$ONLY" ]; then row "$name" 'not run' 0 'not asked for'; return; fi
  [ -n "$DRY" ] && limit=900
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -lt 5 ]; then row "$name" 'not run' 0 'no time was left'; return; fi
  timeout -k 5 "$limit" "$@" > "$OUT/$name.log" 2>&1
  code=$?
  case $code in
    0) row "$name" ok $((SECONDS - begun)) "$(tail -n 1 "$OUT/$name.log" | tr '\t' ' ' | cut -c 1-150)" ;;
    124 | 137) row "$name" stopped $((SECONDS - begun)) "after $limit s" ;;
    77) row "$name" 'not run' $((SECONDS - begun)) "$(tail -n 1 "$OUT/$name.log" | cut -c 1-150)" ;;
    *) row "$name" failed $((SECONDS - begun)) "exit code $code, see $name.log" ;;
  esac
}

# tests that were all skipped did not run; in --dry they are collected
tests() {
  if [ -n "$DRY" ]; then "$PY" -m pytest -q --no-header --collect-only "$@"; return; fi
  "$PY" -m pytest -q --no-header -rs "$@" | tee "$OUT/pytest.tmp"
  local code=${PIPESTATUS[0]}
  [ "$code" -eq 0 ] && ! grep -qE '[0-9]+ passed' "$OUT/pytest.tmp" && code=77
  return "$code"
}

install() {
  local folder=${WHEELS:-$ROOT/wheels}
  if [ ! -d "$folder" ]; then echo "no wheels in $folder: the machine's own packages serve"; return 77; fi
  "$PY" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$OUT/site" "$folder"/*.whl &&
    echo "$(ls "$folder"/*.whl | wc -l) wheels installed"
}

# the kernels by nvcc, for this GPU alone
compile() {
  if ! command -v nvcc > /dev/null; then echo 'there is no nvcc'; return 77; fi
  local arch
  if ! "$PY" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then echo 'there is no GPU'; return 77; fi
  arch=$("$PY" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return
  MMSNN_CUDA=1 TORCH_CUDA_ARCH_LIST=$arch MAX_JOBS=${MAX_JOBS:-8} "$PY" setup.py build_ext --inplace && echo "compiled for $arch by $(nvcc --version | tail -n 1)"
}

# the same by NVRTC, which torch brings along
nvrtc() {
  if ! "$PY" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then echo 'there is no GPU'; return 77; fi
  MMSNN_EXTENSION=0 "$PY" - << 'CODE'
import torch
from mmsnn.ops import extension, lif
x = torch.rand(8, 64, device='cuda', requires_grad=True)
lif(x, 4).sum().backward()
print(extension.serving("cuda"))
CODE
}

# a small distillation on noise, from its config to its checkpoint
train() {
  local work=$OUT/train
  rm -rf "$work"
  "$PY" - "$work" << 'CODE' || return
import sys
from pathlib import Path
import cv2
import numpy as np
work = Path(sys.argv[1])
rng = np.random.default_rng(0)
for label in range(2):
    (work / 'data' / f'class{label}').mkdir(parents=True)
    for i in range(16):
        image = rng.integers(0, 128, (32, 32, 3)) + 120 * label
        cv2.imwrite(str(work / 'data' / f'class{label}' / f'{i}.png'), image.astype(np.uint8))
(work / 'config.py').write_text(f'''
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmsnn'])
ann = dict(type='ResNet', depth=18, base_channels=16, stem_channels=16, out_indices=(3,))
rest = dict(neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', num_classes=2, in_channels=128, topk=(1,)))
snn = dict(type='mmsnn.SEWResNet', depth=18, base_channels=16, T=4, out_indices=(3,))
model = dict(
    type='mmsnn.Distiller', student=dict(type='ImageClassifier', backbone=snn, **rest),
    teacher=dict(type='mmpretrain.ImageClassifier', backbone=ann, **rest), transfer=True,
    losses=dict(
        loss_feature=dict(type='FeatureMSE', student='backbone.layer4', teacher='backbone.layer4', connector=dict(type='ConvBN')),
        loss_rate=dict(type='FiringRate', rate=0.1)))
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[60] * 3, to_rgb=True)
train_dataloader = dict(
    batch_size=8, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root={str(work / 'data')!r}, data_prefix='',
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
train_cfg = dict(by_epoch=True, max_epochs=3)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
''')
CODE
  "$PY" tools/train.py "$work/config.py" --work-dir "$work/run" --seed 0 ${DRY:+--cfg-options train_cfg.max_epochs=1} $AMP
  [ $? -eq 0 ] && [ -f "$work/run/last_checkpoint" ] && echo 'trained, and the checkpoint is there'
}

export -f tests install compile nvrtc train
export PY OUT ROOT DRY
DEVICE=cuda AMP=--amp
if [ -n "$DRY" ]; then DEVICE=cpu AMP=; fi
export DEVICE AMP
run() { step "$1" "$2" bash -c "$3"; }

run wheels 60 install
# a virtual environment would not see the torch of another one
if [ -d "$OUT/site" ]; then export PYTHONPATH=$PYTHONPATH:$OUT/site; fi
run nvrtc 60 nvrtc
# nvcc works beside what NVRTC's kernels can do meanwhile
step nvcc 200 bash -c compile &
COMPILER=$!
small() { if [ -n "$DRY" ]; then echo "$1"; else echo "$2"; fi; }
run ops_of_mmcv 60 'tests tests/mmcv_ops/test_gpu.py'
run train_amp 60 train
wait $COMPILER
run parity 90 'tests tests/reliability/test_cuda.py -k "parity or batch_norm or serve"'
run R06 120 'tests tests/reliability/test_cuda.py -k "not parity and not batch_norm and not serve"'
LIF=$(small '--shape 2 2 4 8 8 --rounds 1 --no-compile' '--shape 4 32 64 56 56 --T 1 4 --rounds 9')
run lif_bf16 90 "\$PY tools/benchmarks/lif.py --device $DEVICE --dtype bfloat16 $LIF --out $OUT/lif_bf16.json"
run lif_fp32 60 "\$PY tools/benchmarks/lif.py --device $DEVICE $LIF --no-compile --no-norm --out $OUT/lif_fp32.json"
# on small maps the time of the host counts, and the two hosts are compared
TINY="--shape $(small '2 1 4 4 4 --rounds 1' '4 4 64 7 7 --rounds 25') --no-compile --no-norm"
for host in nvcc nvrtc; do
  SET=$([ $host = nvrtc ] && echo MMSNN_EXTENSION=0)
  run lif_small_$host 40 "$SET \$PY tools/benchmarks/lif.py --device $DEVICE $TINY --out $OUT/lif_small_$host.json"
done
STEP=$(small '--depth 18 --T 2 --batch 1 --size 32 --rounds 1' '--depth 34 --batch 32 --rounds 5')
run step_bf16 90 "\$PY tools/benchmarks/step.py --device $DEVICE --amp $STEP --out $OUT/step_bf16.json"
MEMORY=$(small '--shape 2 2 4 8 8 --blocks 2' '--shape 4 32 64 28 28')
run memory_bf16 40 "\$PY tools/benchmarks/memory.py --device $DEVICE --dtype bfloat16 $MEMORY --out $OUT/memory_bf16.json"

"$PY" - "$OUT" "${DRY:+dry}" $((SECONDS - START)) << 'CODE'
import json
import sys
from pathlib import Path

out, dry, seconds = Path(sys.argv[1]), bool(sys.argv[2]), int(sys.argv[3])
try:
    import torch

    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    about = dict(machine=machine, torch=torch.__version__, cuda=torch.version.cuda)
except ImportError:
    about = dict(machine='no torch')
rows = [dict(zip(('step', 'outcome', 'seconds', 'remark'), line.split('\t'))) for line in (out / 'rows.tsv').read_text().splitlines()]
about.update(python=sys.version.split()[0], dry=dry, seconds=seconds, steps=rows)
(out / 'summary.json').write_text(json.dumps(about, indent=1) + '\n')
title = 'Dry run on the CPU: nothing of this is a result' if dry else 'What ran on the GPU'
head = f'# {title}\n\n{about["machine"]}, torch {about.get("torch")}, CUDA {about.get("cuda")}, {seconds} s\n\n'
lines = ['| step | outcome | seconds | remark |', '|---|---|---|---|']
lines += [f'| {r["step"]} | {r["outcome"]} | {r["seconds"]} | {r["remark"].replace("|", "/")} |' for r in rows]
(out / 'summary.md').write_text(head + '\n'.join(lines) + '\n')
print(f'\n{out / "summary.md"}')
sys.exit(any(r['outcome'] == 'failed' for r in rows))
CODE
