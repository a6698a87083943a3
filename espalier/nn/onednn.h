#pragma once

#include <dnnl.hpp>

#include "espalier/base/error.h"
#include "espalier/nn/layer.h"

// Small helpers around oneDNN: one engine, synchronous execution, failures as CHECKs (all shapes
// are ours).
namespace espalier::nn {

inline const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// One stream per thread: a stream must not be used by two threads at a time.
inline dnnl_stream_t cpu_stream() {
  thread_local const dnnl::stream stream(cpu_engine());
  return stream.get();
}

inline dnnl::memory::data_type onednn_type(Type type) {
  return type == Type::kFloat ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

inline void execute(const dnnl::primitive& primitive, const dnnl_exec_arg_t* args, int count) {
  const dnnl_status_t status = dnnl_primitive_execute(primitive.get(), cpu_stream(), count, args);
  ESPALIER_CHECK(status == dnnl_success, "oneDNN status ", static_cast<int>(status));
}

// Copies between two orders or types.
class Reorder {
 public:
  Reorder() = default;
  Reorder(const dnnl::memory::desc& from, const dnnl::memory::desc& to)
      : from_(from, cpu_engine(), nullptr), to_(to, cpu_engine(), nullptr) {
    // oneDNN's own scratchpad would belong to the thread that makes the primitive, and another one
    // may run it.
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::reorder::primitive_desc desc(cpu_engine(), from, cpu_engine(), to, attributes);
    primitive_ = dnnl::reorder(desc);
    scratchpad_.resize(desc.scratchpad_desc().get_size());
    scratch_ = dnnl::memory(desc.scratchpad_desc(), cpu_engine(), scratchpad_.data());
  }
  size_t scratch_bytes() const { return scratchpad_.size(); }
  void run(const void* from, void* to) {
    from_.set_data_handle(const_cast<void*>(from));
    to_.set_data_handle(to);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from_.get()},
                                    {DNNL_ARG_TO, to_.get()},
                                    {DNNL_ARG_SCRATCHPAD, scratch_.get()}};
    execute(primitive_, args, 3);
  }

 private:
  dnnl::memory from_, to_, scratch_;
  dnnl::primitive primitive_;
  AlignedVector<uint8_t> scratchpad_;
};

// C = alpha·A·B + beta·C in fp32, row-major; 'T' transposes.
inline void gemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                 int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const dnnl_status_t status = dnnl_sgemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  ESPALIER_CHECK(status == dnnl_success, "dnnl_sgemm status ", static_cast<int>(status));
}

}  // namespace espalier::nn
