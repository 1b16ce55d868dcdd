// Graphs of captured launches, as cuda/recording.cu uses them: what is captured does not run, what
// is launched runs anew each time, and what does not go into a graph spoils it.
#include "cuda/launch.h"
#include "cuda_test.h"

using namespace polylora;
using namespace polylora::cuda;
using namespace polylora::cuda_test;

namespace {

__global__ void add_kernel(int32_t* values, const int32_t* added, int count) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) values[i] += added[i];
}

constexpr int kCount = 300;

// Two launches and a memset between them: 2 added, then cleared, then 2 added again.
cudaGraphExec_t capture(TestStream& stream, int32_t* values, const int32_t* added) {
  must(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal), "a capture");
  launch(stream, {blocks_for(kCount, 128), 128}, add_kernel, values, added, kCount);
  stream.note(cudaMemsetAsync(values, 0, 100 * sizeof(int32_t), stream.handle()));
  launch(stream, {blocks_for(kCount, 128), 128}, add_kernel, values, added, kCount);
  cudaGraph_t graph = nullptr;
  must(cudaStreamEndCapture(stream.handle(), &graph), "the end of a capture");
  cudaGraphExec_t made = nullptr;
  must(cudaGraphInstantiate(&made, graph, 0), "a graph");
  must(cudaGraphDestroy(graph), "giving a graph back");
  return made;
}

void test_replay() {
  TestStream stream;
  Array<int32_t> values(stream, std::vector<int32_t>(kCount, 5));
  std::vector<int32_t> first(kCount, 2), second(kCount, 7);
  Array<int32_t> added(stream, first);
  const cudaGraphExec_t graph = capture(stream, values.data(), added.data());
  expect(values.read(stream) == std::vector<int32_t>(kCount, 5), "a capture runs nothing");
  std::vector<int32_t> wanted(kCount, 5);
  const auto replay = [&](int32_t one) {
    must(cudaGraphLaunch(graph, stream.handle()), "launching a graph");
    for (int i = 0; i < kCount; ++i)
      wanted[size_t(i)] = i < 100 ? one : wanted[size_t(i)] + 2 * one;
    expect(values.read(stream) == wanted, "a graph runs what was captured, in order");
  };
  replay(2);
  replay(2);
  // What it reads is as of the launch.
  must(cudaMemcpyAsync(added.data(), second.data(), kCount * sizeof(int32_t),
                       cudaMemcpyHostToDevice, stream.handle()),
       "a copy");
  stream.finish();
  replay(7);
  must(cudaGraphExecDestroy(graph), "giving a graph back");
}

void test_spoiled() {
  TestStream stream;
  Array<int32_t> values(stream, std::vector<int32_t>(kCount, 5));
  must(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal), "a capture");
  expect(cudaStreamSynchronize(stream.handle()) != cudaSuccess, "no waiting in a capture");
  cudaGraph_t graph = nullptr;
  expect(cudaStreamEndCapture(stream.handle(), &graph) != cudaSuccess && !graph,
         "waiting spoils what is captured");
  cudaGetLastError();
  expect(values.read(stream) == std::vector<int32_t>(kCount, 5), "the stream goes on");
}

}  // namespace

int main() {
  if (!announce()) return 0;
  test_replay();
  test_spoiled();
  return report();
}
