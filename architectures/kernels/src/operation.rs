//! The way of an operation into Burn: forward on the Flex backend, backward in its autodiff.

use std::any::Any;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, Dispatch, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind,
    ExtensionType, Flex, backend_extension,
};
use burn::tensor::{DType, Tensor};

use crate::array::Array;
use crate::profile::{Pass, Watch};

/// Something that is computed from arrays, and whose gradient is known.
pub trait Operation: Debug + Send + Sync + 'static {
    /// What it is called in a profile.
    fn name(&self) -> &'static str;

    /// Whether a profile counts it among the products: linear maps, attention and convolutions (the depthwise ones, too).
    fn multiplies(&self) -> bool {
        false
    }

    /// The result, and, if `keep` is true, what [`Self::backward`] will want to have.
    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved);

    /// From the gradient of the result, the gradient of each input that is `wanted`; for the others `None`.
    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>>;
}

/// What an operation keeps for its backward pass.
pub type Saved = Vec<Array>;

/// Whether the kernels compute on this tensor: f32 on the CPU.
pub fn applies<const D: usize>(x: &Tensor<D>) -> bool {
    // The plain device: an autodiff device is another one than that which it wraps.
    x.dtype() == DType::F32 && x.device().without_autodiff() == burn::tensor::Device::flex()
}

/// Runs `operation` on tensors on the CPU, of which each may have its own number of axes (see [`Tensor::into_dispatch`]).
///
/// # Panics
/// If there are no inputs, or more than eight.
pub fn run<const D: usize>(operation: impl Operation, inputs: Vec<FloatTensor<Dispatch>>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::run_operation(Inputs(inputs), Arc::new(operation)))
}

/// An operation's tensors, on any backend.
pub struct Inputs<B: Backend>(Vec<FloatTensor<B>>);

impl<B: Backend> ExtensionType<B> for Inputs<B> {
    type Target = Inputs<Dispatch>;

    fn map_to_dispatch<F>(self, map_kind: F, autodiff: DispatchAutodiffContext) -> Self::Target
    where
        F: Fn(BackendTensor<B>) -> DispatchTensorKind,
    {
        let wrap = |tensor| DispatchTensor { kind: map_kind(BackendTensor::Float(tensor)), autodiff };
        Inputs(self.0.into_iter().map(wrap).collect())
    }

    fn map_from_dispatch<F>(target: Self::Target, unwrap_kind: F) -> Self
    where
        F: Fn(DispatchTensor) -> BackendTensor<B>,
    {
        let unwrap = |tensor| unwrap_kind(tensor).float();
        Self(target.0.into_iter().map(unwrap).collect())
    }

    fn routing_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn routing_float_tensor(target: &Self::Target) -> Option<&DispatchTensor> {
        target.0.first()
    }

    fn autodiff_context(target: &Self::Target) -> DispatchAutodiffContext {
        let contexts = target.0.iter().map(|tensor| tensor.autodiff);
        contexts.fold(DispatchAutodiffContext::Disabled, DispatchAutodiffContext::merge)
    }
}

/// Burn's way in; use [`run`].
#[backend_extension(Autodiff, Flex)]
pub trait Kernels: Backend {
    /// See [`run`].
    fn run_operation(#[extension_type] inputs: Inputs<Self>, operation: Arc<dyn Operation>) -> FloatTensor<Self>;
}

impl Kernels for Flex {
    fn run_operation(Inputs(inputs): Inputs<Self>, operation: Arc<dyn Operation>) -> FloatTensor<Self> {
        forward(&*operation, inputs, false).0.into_tensor()
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn run_operation(Inputs(inputs): Inputs<Self>, operation: Arc<dyn Operation>) -> FloatTensor<Self> {
        match inputs.len() {
            1 => tracked::<C, 1>(inputs, operation),
            2 => tracked::<C, 2>(inputs, operation),
            3 => tracked::<C, 3>(inputs, operation),
            4 => tracked::<C, 4>(inputs, operation),
            5 => tracked::<C, 5>(inputs, operation),
            6 => tracked::<C, 6>(inputs, operation),
            7 => tracked::<C, 7>(inputs, operation),
            8 => tracked::<C, 8>(inputs, operation),
            count => panic!("an operation on {count} tensors; one to eight are possible"),
        }
    }
}

fn forward(operation: &dyn Operation, inputs: Vec<FloatTensor<Flex>>, keep: bool) -> (Array, Saved) {
    let inputs: Vec<Array> = inputs.into_iter().map(Array::new).collect();
    let label = || {
        let shapes = inputs.iter().take(2).map(|input| format!(" {:?}", input.shape()));
        operation.name().to_owned() + &shapes.collect::<String>()
    };
    let watch = Watch::start(label);
    let read = if watch.is_running() { inputs.clone() } else { Vec::new() };
    let result = operation.forward(inputs, keep);
    let (output, saved) = &result;
    watch.stop(Pass::Forward, operation.multiplies(), || {
        let kept = saved.iter().filter(|kept| !kept.is_same(output) && !read.iter().any(|input| kept.is_same(input)));
        bytes(read.iter().chain(kept).chain([output]))
    });
    result
}

fn bytes<'a>(arrays: impl Iterator<Item = &'a Array>) -> u64 {
    arrays.map(|array| size_of_val(array.values()) as u64).sum()
}

fn tracked<C: CheckpointStrategy, const N: usize>(
    inputs: Vec<FloatTensor<Autodiff<Flex, C>>>,
    operation: Arc<dyn Operation>,
) -> FloatTensor<Autodiff<Flex, C>> {
    let (inputs, nodes): (Vec<_>, Vec<_>) = inputs.into_iter().map(|tensor| tensor.into_parts()).unzip();
    let nodes: [_; N] = nodes.try_into().expect("as many as were counted");
    match Gradient.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (output, saved) = forward(&*operation, inputs, true);
            prepared.finish(State { operation, saved }, output.into_tensor())
        }
        OpsKind::UnTracked(prepared) => {
            let (output, _) = forward(&*operation, inputs, false);
            prepared.finish(output.into_tensor())
        }
    }
}

#[derive(Debug)]
struct Gradient;

#[derive(Debug, Clone)]
struct State {
    operation: Arc<dyn Operation>,
    saved: Saved,
}

impl<const N: usize> Backward<Flex, N> for Gradient {
    type State = State;

    fn backward(self, ops: Ops<State, N>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = Array::new(gradients.consume::<Flex>(&ops.node));
        let State { operation, saved } = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let watch = Watch::start(|| format!("{} {:?}", operation.name(), gradient.shape()));
        let read = if watch.is_running() { bytes(saved.iter().chain([&gradient])) } else { 0 };
        let results = operation.backward(gradient, saved, &wanted);
        watch.stop(Pass::Backward, operation.multiplies(), || read + bytes(results.iter().flatten()));
        assert_eq!(results.len(), N, "{} forgot an input", operation.name());
        for (parent, result) in ops.parents.into_iter().zip(results) {
            if let (Some(parent), Some(result)) = (parent, result) {
                gradients.register::<Flex>(parent.id, result.into_tensor());
            }
        }
    }
}

/// Keeps what was made from weights (packed for the kernels) for as long as the weights stay the same.
///
/// It holds the weights that it was made from, so that their memory cannot become another tensor's.
#[derive(Debug, Clone, Default)]
pub struct Cache(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    purpose: &'static str,
    sources: Vec<Array>,
    made: Arc<dyn Any + Send + Sync>,
}

impl Cache {
    /// What `make` makes from `sources` for this purpose, made at the first call with these very arrays.
    pub fn get<T: Any + Send + Sync>(
        &self,
        purpose: &'static str,
        sources: &[&Array],
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut entries = self.0.lock().expect("no panic while packing");
        let same = |entry: &Entry| {
            entry.sources.len() == sources.len() && std::iter::zip(&entry.sources, sources).all(|(a, b)| a.is_same(b))
        };
        if let Some(entry) = entries.iter().find(|entry| entry.purpose == purpose && same(entry)) {
            let made = Arc::clone(&entry.made);
            return made.downcast().expect("one type per purpose");
        }
        let made = Arc::new(make());
        // Of each purpose one: what the weights were before, nobody asks for again.
        entries.retain(|entry| entry.purpose != purpose);
        entries.push(Entry {
            purpose,
            sources: sources.iter().map(|&source| source.clone()).collect(),
            made: Arc::clone(&made) as _,
        });
        made
    }
}
