#include "bench/bare_torch.h"

#include <torch/torch.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "espalier/models/process.h"
#include "espalier/train/trainer.h"

namespace espalier::bench {

namespace {

torch::nn::Sequential make_model(const std::string& name) {
  namespace nn = torch::nn;
  if (name == "mlp")
    return nn::Sequential(nn::Flatten(), nn::Linear(784, 64), nn::ReLU(), nn::Linear(64, 10));
  return nn::Sequential(nn::Conv2d(nn::Conv2dOptions(1, 32, 5).padding(2)), nn::ReLU(),
                        nn::MaxPool2d(2), nn::Conv2d(nn::Conv2dOptions(32, 64, 5).padding(2)),
                        nn::ReLU(), nn::MaxPool2d(2), nn::Flatten(), nn::Linear(3136, 512),
                        nn::ReLU(), nn::Linear(512, 10));
}

}  // namespace

double run_bare_loop(const BareLoop& loop) {
  torch::manual_seed(1);
  auto global = make_model(loop.model);
  const auto samples = static_cast<int64_t>(loop.samples_per_client);
  const auto batch = static_cast<int64_t>(loop.batch_size);
  const torch::Tensor inputs = torch::randn({samples, 1, 28, 28});
  const torch::Tensor labels = torch::randint(0, 10, {samples}, torch::kLong);
  std::vector<torch::Tensor> sums;
  for (const auto& parameter : global->parameters()) sums.push_back(torch::zeros_like(parameter));

  std::mutex mutex;
  std::atomic<size_t> next = 0;
  const auto started = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (size_t t = 0; t < loop.threads; ++t) {
    threads.emplace_back([&] {
      models::configure_thread();
      auto model = make_model(loop.model);
      torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.01));
      while (next++ < loop.clients) {
        {
          torch::NoGradGuard guard;
          for (size_t i = 0; i < sums.size(); ++i)
            model->parameters()[i].copy_(global->parameters()[i]);
        }
        const torch::Tensor order = torch::randperm(samples, torch::kLong);
        for (int64_t begin = 0; begin < samples; begin += batch) {
          const torch::Tensor index = order.slice(0, begin, begin + batch);
          optimizer.zero_grad();
          const auto loss = torch::nn::functional::cross_entropy(
              model->forward(inputs.index_select(0, index)), labels.index_select(0, index));
          loss.backward();
          optimizer.step();
        }
        torch::NoGradGuard guard;
        const std::lock_guard lock(mutex);
        for (size_t i = 0; i < sums.size(); ++i)
          sums[i].add_(model->parameters()[i], 1.0 / static_cast<double>(loop.clients));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

}  // namespace espalier::bench
