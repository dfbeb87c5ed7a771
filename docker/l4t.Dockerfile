# A Jetson container that builds and runs engines. On the Jetson itself, from the root of the checkout:
#
#   docker build -f docker/l4t.Dockerfile --build-arg BASE=IMAGE -t cdm-export .
#   docker run --rm -it --runtime nvidia -v "$PWD/bundles:/bundles" cdm-export build /bundles/d435.bundle --target tensorrt
#
# IMAGE is NVIDIA's TensorRT container for Jetson with the TensorRT of your JetPack (JetPack 6.2: 10.3, JetPack 7: see
# `dpkg -l | grep nvinfer` on the host). An engine is tied to the TensorRT that built it: build in the container it runs
# in. EXTRA is jetpack6 or jetpack7.
ARG BASE
FROM ${BASE}
ARG EXTRA=jetpack6
ENV CDM_EXPORT_CACHE=/var/cache/cdm-export PIP_NO_CACHE_DIR=1
RUN python3 -m venv --system-site-packages /opt/cdm-export
WORKDIR /src
COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY runtimes runtimes
COPY reference_model reference_model
COPY cdm_export cdm_export
RUN /opt/cdm-export/bin/pip install -c constraints.txt ".[${EXTRA}]" \
    # The image's own TensorRT must be the one that is found.
    && /opt/cdm-export/bin/python -c "import importlib.util as u; assert u.find_spec('tensorrt'), 'no TensorRT in BASE'"
VOLUME /var/cache/cdm-export
ENTRYPOINT ["/opt/cdm-export/bin/cdm-export"]
CMD ["doctor"]
