# saescope as a container: docker build -t saescope .
# For an NVIDIA GPU: docker build --build-arg TORCH=cu130 -t saescope . and docker run --gpus all ...
FROM python:3.12-slim
ARG TORCH=cpu
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "https://download.pytorch.org/whl/${TORCH}" ".[all]" \
    && useradd --create-home --uid 1000 saescope \
    && install -d -o saescope /data
USER 1000
ENV SAESCOPE_HOME=/data HF_HOME=/data/huggingface
VOLUME /data
WORKDIR /data
ENTRYPOINT ["saescope"]
CMD ["serve"]
