// A program without libtorch until something needs it: each function here is that of a module's
// engine (torch_module.h), which the first call loads.
#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <filesystem>
#include <system_error>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/version.h"
#include "espalier/models/foreign.h"
#include "espalier/models/torch_module.h"

namespace espalier::models {
namespace {

// Where the program lies, or the library that this is part of.
std::filesystem::path own_folder() {
  Dl_info info;
  link_map* map = nullptr;
  const bool found = dladdr1(reinterpret_cast<const void*>(&own_folder), &info,
                             reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) != 0;
  const bool library = found && map != nullptr && map->l_name[0] != '\0';
  std::error_code error;
  const auto file = std::filesystem::canonical(library ? map->l_name : "/proc/self/exe", error);
  // Otherwise what is looked for would be looked for in the working directory.
  if (error || !file.is_absolute()) {
    fail("models/torch", "the program's file is no longer where it was started from, and ",
         kTorchModuleFile, " is found beside it; start it again");
  }
  return file.parent_path();
}

// Beside the program, as in a build tree, or where `cmake --install` puts it.
std::filesystem::path module_file() {
  const std::filesystem::path own = own_folder();
  const std::filesystem::path installed = (own / ESPALIER_MODULE_FOLDER).lexically_normal();
  for (const auto& folder : {own, installed}) {
    std::error_code error;
    if (std::filesystem::exists(folder / kTorchModuleFile, error)) return folder / kTorchModuleFile;
  }
  fail("models/torch", "this needs libtorch, and ", kTorchModuleFile,
       ", which brings it, is neither in ", own.string(), " nor in ", installed.string(),
       "; install Espalier whole, or build its target espalier");
}

std::atomic<bool> is_loaded = false;

const ForeignEngine& load() {
  const std::filesystem::path file = module_file();
  // It stays until the process ends: nets and exceptions of its may live as long. Local, so that
  // its libraries meet nobody else's symbols; lazy, as the program's own libraries are bound.
  void* module = dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (module == nullptr)
    fail("models/torch", "libtorch cannot be loaded: ", dlerror(),
         "; install libtorch, or Espalier anew (", file.string(), ")");
  const auto* found = static_cast<const TorchModule*>(dlsym(module, kTorchModuleSymbol));
  if (found == nullptr || found->build_id() != build_id()) {
    fail("models/torch", file.string(), " is of another build than this program (",
         found == nullptr ? "none" : found->build_id(), ", not ", build_id(),
         "); install or build both together");
  }
  const ForeignEngine& engine = found->engine();
  engine.configure_process();
  is_loaded = true;
  return engine;
}

// Threads that were configured before it was loaded are configured again when they use it.
const ForeignEngine& libtorch() {
  static const ForeignEngine& engine = load();
  [[maybe_unused]] thread_local const bool configured = (engine.configure_thread(), true);
  return engine;
}

const ForeignModel& torchscript() { return libtorch().models.front(); }

// call() is the function that a member of the loaded engine, or of its model, points to.
template <auto kOwner, auto kMember>
struct Loaded;
template <auto kOwner, typename Owner, typename Result, typename... Arguments,
          Result (*Owner::*kMember)(Arguments...)>
struct Loaded<kOwner, kMember> {
  static Result call(Arguments... arguments) {
    return (kOwner().*kMember)(std::forward<Arguments>(arguments)...);
  }
};

// "cpu" needs no libtorch.
void check_device(const std::string& device) {
  if (device != "cpu") libtorch().check_device(device);
}

void configure_if_loaded() {
  if (is_loaded) libtorch();
}

}  // namespace

const ForeignEngine& foreign_engine() {
  static const ForeignEngine lazy = {
      .models = {{.row = torchscript_row(),
                  .make = Loaded<torchscript, &ForeignModel::make>::call,
                  .unit_notes = Loaded<torchscript, &ForeignModel::unit_notes>::call,
                  .model_notes = Loaded<torchscript, &ForeignModel::model_notes>::call}},
      .make_graph_net = Loaded<libtorch, &ForeignEngine::make_graph_net>::call,
      .check_device = check_device,
      .archive = Loaded<libtorch, &ForeignEngine::archive>::call,
      .configure_process = [] {},  // load() does
      .configure_thread = configure_if_loaded};
  return lazy;
}

}  // namespace espalier::models
