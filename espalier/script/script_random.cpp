#include "espalier/script/script_random.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <mutex>
#include <optional>
#include <vector>

#include "espalier/base/error.h"

namespace espalier::script {
namespace {

// A key of libtorch's that is there for modes of tests and that nothing else uses; above autograd.
constexpr c10::DispatchKey kKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

// Per thread, for an operator is told nothing but its arguments.
thread_local const at::Generator* current = nullptr;

bool takes_generator(const c10::Argument& argument) {
  const auto type = argument.type();
  if (type->kind() == c10::TypeKind::GeneratorType) return true;
  const auto optional = type->cast<c10::OptionalType>();
  return optional != nullptr && optional->getElementType()->kind() == c10::TypeKind::GeneratorType;
}

// Gives the operator this thread's generator where it was given none.
void draw(const c10::OperatorHandle& op, c10::DispatchKeySet keys, ::torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = (*stack)[first + i];
    if (current != nullptr && takes_generator(arguments[i]) && value.isNone())
      value = c10::IValue(*current);
  }
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
}

// What libtorch must know once per process.
class Registration {
 public:
  Registration()
      : others_(::torch::Library::IMPL, "_", c10::make_optional(kKey), __FILE__, __LINE__),
        random_(::torch::Library::IMPL, "aten", c10::make_optional(kKey), __FILE__, __LINE__) {
    others_.fallback(::torch::CppFunction::makeFallthrough());
    for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
      if (!name.name.starts_with("aten::")) continue;
      const auto op = c10::Dispatcher::singleton().findSchema(name);
      if (!op.has_value()) continue;
      const auto& arguments = op->schema().arguments();
      if (std::ranges::none_of(arguments, takes_generator)) continue;
      const std::string full =
          name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
      random_.impl(full.substr(6).c_str(), ::torch::CppFunction::makeFromBoxedFunction<&draw>());
    }
  }

 private:
  ::torch::Library others_, random_;
};

void register_once() {
  // Never taken back: libtorch's tables may be gone first.
  static const Registration* const registration = new Registration;
  static_cast<void>(registration);
}

std::mutex& gpu_mutex() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

struct RandomScope::State {
  at::Generator generator;
  std::optional<c10::impl::IncludeDispatchKeyGuard> guard;
  std::unique_lock<std::mutex> lock;
};

RandomScope::RandomScope(Key key, bool cpu) : state_(std::make_unique<State>()) {
  if (!cpu) {
    state_->lock = std::unique_lock(gpu_mutex());
    at::manual_seed(key.value());
    return;
  }
  ESPALIER_CHECK(current == nullptr);
  register_once();
  state_->generator = at::detail::createCPUGenerator(key.value());
  current = &state_->generator;
  state_->guard.emplace(kKey);
}

RandomScope::~RandomScope() {
  if (state_->guard) current = nullptr;
}

}  // namespace espalier::script
