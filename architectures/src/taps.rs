//! A look into a network while it runs.

use burn::tensor::Tensor;

type Observer<'a> = dyn FnMut(&str, &[usize], Tensor<2>) -> Tensor<2> + 'a;

/// Shows every named intermediate result of a forward pass to an observer, which may replace it.
///
/// Networks call [`Taps::map`] once per stem, block and head. Without an observer this costs nothing.
pub struct Taps<'a>(Option<Box<Observer<'a>>>);

impl<'a> Taps<'a> {
    /// Nobody looks.
    pub fn none() -> Self {
        Self(None)
    }

    /// `observer` gets the name (`"layer1.0"`, as timm names its modules), the shape with the batch first, and the
    /// values as `[batch, everything else]`; what it returns, in the same shape, is what the network goes on with.
    pub fn observe(observer: impl FnMut(&str, &[usize], Tensor<2>) -> Tensor<2> + 'a) -> Self {
        Self(Some(Box::new(observer)))
    }

    /// Shows `x`, whose first axis is the batch, under a name that is only built if somebody looks.
    pub fn map<const D: usize>(&mut self, name: impl FnOnce() -> String, x: Tensor<D>) -> Tensor<D> {
        let Some(observer) = &mut self.0 else {
            return x;
        };
        let shape = x.dims();
        let rest = shape[1..].iter().product();
        observer(&name(), &shape, x.reshape([shape[0], rest])).reshape(shape)
    }

    /// As [`Self::map`], in another form, which is only made if somebody looks.
    pub fn map_as<const D: usize, const E: usize>(
        &mut self,
        name: impl FnOnce() -> String,
        x: Tensor<D>,
        to: impl FnOnce(Tensor<D>) -> Tensor<E>,
        back: impl FnOnce(Tensor<E>) -> Tensor<D>,
    ) -> Tensor<D> {
        if self.0.is_some() { back(self.map(name, to(x))) } else { x }
    }
}
