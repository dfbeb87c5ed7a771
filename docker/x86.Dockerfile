# A workstation container with an NVIDIA GPU: TensorRT and TensorRT-RTX; docs/containers.md says what it can and cannot do.
#
#   docker build -f docker/x86.Dockerfile -t cdm-export .
#   docker run --rm -it --gpus all -v cdm-export-cache:/var/cache/cdm-export -v "$PWD/bundles:/bundles" \
#       cdm-export build /bundles/d435.bundle --target tensorrt
#
# The host's driver has to support the CUDA that TENSORRT and cuda-python are built for (13 by default: nvidia-smi shows it).
# Without --gpus it still builds engines for RTX GPUs: build /bundles/d435.bundle --target tensorrt-rtx
FROM python:3.12-slim
ARG TENSORRT="tensorrt>=10.13,<12"
ENV CDM_EXPORT_CACHE=/var/cache/cdm-export PIP_NO_CACHE_DIR=1
# What OpenCV's wheel takes from the system.
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY runtimes runtimes
COPY reference_model reference_model
COPY cdm_export cdm_export
RUN pip install -c constraints.txt ".[tensorrt,tensorrt-rtx]" "${TENSORRT}"
VOLUME /var/cache/cdm-export
ENTRYPOINT ["cdm-export"]
CMD ["doctor"]
