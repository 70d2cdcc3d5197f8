# mmsnn in a container:
#   docker build --target cpu -t mmsnn .         docker run --rm -it -v "$PWD":/work mmsnn train CONFIG
#   docker build --target cuda -t mmsnn:cuda .   docker run --rm -it --gpus all -v "$PWD":/work mmsnn:cuda train CONFIG
# Linted by hadolint, not built: no Docker daemon was at hand.

FROM python:3.11-slim-bookworm AS base
# the compiler of the kernels, and what opencv wants of a system
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/opt/mmsnn/constraints.txt
WORKDIR /opt/mmsnn
COPY . .
WORKDIR /work
ENTRYPOINT ["mmsnn"]
CMD ["--help"]

# TORCH holds pip's arguments for PyTorch's build without CUDA, as PyTorch's installation page gives them; without them the
# larger build with CUDA is installed, which works on a CPU as well.
FROM base AS cpu
ARG TORCH="torch==2.11.0 torchvision==0.26.0"
# hadolint ignore=DL3013,SC2086
RUN pip install $TORCH setuptools==81.0.0 \
    && MMSNN_CUDA=0 pip install --no-build-isolation "/opt/mmsnn[demo,onnx]" \
    && mmsnn env

# torch brings CUDA's libraries, and NVRTC, which compiles the kernels at first use on a GPU.
FROM base AS cuda
RUN pip install torch==2.11.0 torchvision==0.26.0 setuptools==81.0.0 \
    && MMSNN_CUDA=0 pip install --no-build-isolation "/opt/mmsnn[demo,onnx]" \
    && mmsnn env
