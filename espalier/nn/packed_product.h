#pragma once

#include "espalier/nn/onednn.h"

namespace espalier::nn {

// C ← C + A·Wᵀ in fp32 with A: [rows, inner] and W: [columns, inner], for one W and many A: W is
// brought into oneDNN's own order once, which its sgemm does again at every call. Worth it from a
// few calls on.
class PackedProduct {
 public:
  PackedProduct() = default;
  PackedProduct(int64_t rows, int64_t columns, int64_t inner) {
    using dnnl::memory;
    const auto f32 = memory::data_type::f32;
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(ops);
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::inner_product_forward::desc desc(dnnl::prop_kind::forward_inference,
                                                 {{rows, inner}, f32, memory::format_tag::ab},
                                                 {{columns, inner}, f32, memory::format_tag::any},
                                                 {{rows, columns}, f32, memory::format_tag::ab});
    const dnnl::inner_product_forward::primitive_desc made(desc, attributes, cpu_engine());
    primitive_ = dnnl::inner_product_forward(made);
    pack_ = Reorder({{columns, inner}, f32, memory::format_tag::ab}, made.weights_desc());
    packed_bytes_ = made.weights_desc().get_size();
    scratchpad_.resize(made.scratchpad_desc().get_size());
    a_ = memory(made.src_desc(), cpu_engine(), nullptr);
    w_ = memory(made.weights_desc(), cpu_engine(), nullptr);
    c_ = memory(made.dst_desc(), cpu_engine(), nullptr);
    scratch_ = memory(made.scratchpad_desc(), cpu_engine(), scratchpad_.data());
  }

  size_t packed_bytes() const { return packed_bytes_; }
  // Working memory of its own.
  size_t owned_bytes() const { return scratchpad_.size() + pack_.scratch_bytes(); }

  // `packed`: packed_bytes(), aligned to 64.
  void pack(const float* w, void* packed) {
    pack_.run(w, packed);
    w_.set_data_handle(packed);
  }
  // With what was packed last.
  void run(const float* a, float* c) {
    a_.set_data_handle(const_cast<float*>(a));
    c_.set_data_handle(c);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, a_.get()},
                                    {DNNL_ARG_WEIGHTS, w_.get()},
                                    {DNNL_ARG_DST, c_.get()},
                                    {DNNL_ARG_SCRATCHPAD, scratch_.get()}};
    execute(primitive_, args, 4);
  }

 private:
  size_t packed_bytes_ = 0;
  dnnl::memory a_, w_, c_, scratch_;
  dnnl::primitive primitive_;
  Reorder pack_;
  AlignedVector<uint8_t> scratchpad_;
};

}  // namespace espalier::nn
