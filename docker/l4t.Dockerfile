# A Jetson container that builds and runs engines; docs/containers.md says what it can and cannot do.
# On the Jetson itself, from the root of the checkout:
#
#   docker build -f docker/l4t.Dockerfile -t cdm-export .          # JetPack 6.1 and 6.2
#   docker run --rm -it --runtime nvidia -v cdm-export-cache:/var/cache/cdm-export -v "$PWD/bundles:/bundles" \
#       cdm-export build /bundles/d435.bundle --target tensorrt
#
# BASE brings the TensorRT that engines are built with, and they run with that one alone:
#   JetPack 6.1, 6.2   TensorRT 10.3: the default, EXTRA=jetpack6
#   JetPack 7.x        --build-arg BASE=nvcr.io/nvidia/tensorrt:25.08-py3 --build-arg EXTRA=jetpack7
#                      (NVIDIA's image for any 64-bit Arm machine; reported to start on a Thor with L4T r38.4)
#   JetPack 6.0, 5     no image: their TensorRT has no strongly typed networks
ARG BASE=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel
FROM ${BASE}
ARG EXTRA=jetpack6
ENV CDM_EXPORT_CACHE=/var/cache/cdm-export PIP_NO_CACHE_DIR=1
# venv is a package of its own on Ubuntu; the others are what OpenCV's wheel takes from the system.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --system-site-packages /opt/cdm-export
WORKDIR /src
COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY runtimes runtimes
COPY reference_model reference_model
COPY cdm_export cdm_export
# The image's own TensorRT must be the one that is found.
RUN /opt/cdm-export/bin/pip install -c constraints.txt ".[${EXTRA}]" \
    && /opt/cdm-export/bin/python -c "import importlib.util as u; assert u.find_spec('tensorrt'), 'no TensorRT in BASE'"
VOLUME /var/cache/cdm-export
ENTRYPOINT ["/opt/cdm-export/bin/cdm-export"]
CMD ["doctor"]
