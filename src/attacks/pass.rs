//! Passes over the pixels of a batch on the CPU, by parts of it (images or planes) on all threads. A step of an attack would take several
//! of Burn's operations, each of which runs on one thread and goes from memory to memory.

use std::fmt;

use burn::tensor::{DType, Tensor, TensorData};
use netkin_kernels::{Array, Operation, Saved, applies, run};
use rayon::prelude::*;

use super::sums::Real;

/// Whether [`pass`] is for this tensor: f32 on the CPU, and not tracked, since a pass has no gradient.
pub fn can_pass(x: &Tensor<4>) -> bool {
    applies(x) && !x.is_autodiff()
}

/// `x`, for which [`can_pass`] holds, each of whose `parts`, equal and one behind the other, `of_part` changes in place, in a copy where
/// somebody else holds `x`. It gets the part's number and the same part of each of the `others`, up to seven, which may have
/// other numbers of values.
pub fn pass(
    x: Tensor<4>,
    parts: usize,
    others: Vec<Tensor<4>>,
    of_part: impl Fn(usize, &mut [f32], &[&[f32]]) + Send + Sync + 'static,
) -> Tensor<4> {
    let inputs = [x].into_iter().chain(others).map(Tensor::into_dispatch).collect();
    run(Pass { parts, of_part }, inputs)
}

/// As [`pass`], of one part for each image.
pub fn pass_images(
    x: Tensor<4>,
    others: Vec<Tensor<4>>,
    of_image: impl Fn(&mut [f32], &[&[f32]]) + Send + Sync + 'static,
) -> Tensor<4> {
    let [images, ..] = x.dims();
    pass(x, images, others, move |_, image, others| of_image(image, others))
}

struct Pass<F> {
    parts: usize,
    of_part: F,
}

impl<F> fmt::Debug for Pass<F> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Pass").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl<F: Fn(usize, &mut [f32], &[&[f32]]) + Send + Sync + 'static> Operation for Pass<F> {
    fn name(&self) -> &'static str {
        "pass over pixels"
    }

    fn forward(&self, mut inputs: Vec<Array>, _keep: bool) -> (Array, Saved) {
        let others = inputs.split_off(1);
        let others: Vec<&[f32]> = others.iter().map(Array::values).collect();
        let mut x = inputs.remove(0);
        if x.unique_values().is_none() {
            x = Array::from_vec(x.values().to_vec(), x.shape());
        }
        let values = x.unique_values().expect("nobody else holds a new array");
        each_part(values, self.parts, |index, part| {
            let others: Vec<&[f32]> = others.iter().map(|values| part_of(values, self.parts, index)).collect();
            (self.of_part)(index, part, &others);
        });
        (x, vec![])
    }

    fn backward(&self, _gradient: Array, _saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        unreachable!("what is tracked takes no pass")
    }
}

/// A map of parts of the pixels, in any number format.
pub trait Map: Sync {
    /// Changes the part of that number in place.
    fn apply<T: Real>(&self, index: usize, part: &mut [T]);
}

/// `x`, each of whose `parts` is mapped, on the CPU whatever the device. Those in double precision are computed in it.
pub fn mapped(x: Tensor<4>, parts: usize, map: &impl Map) -> Tensor<4> {
    let (shape, device, dtype) = (x.dims(), x.device(), x.dtype());
    let mut data = x.into_data();
    if dtype == DType::F32 {
        let values = data.as_mut_slice::<f32>().expect("its type was asked for");
        each_part(values, parts, |index, part| map.apply(index, part));
    } else {
        let mut values: Vec<f64> = data.iter::<f64>().collect();
        each_part(&mut values, parts, |index, part| map.apply(index, part));
        data = TensorData::new(values, shape);
    }
    Tensor::from_data(data, (&device, dtype))
}

fn each_part<T: Send>(values: &mut [T], parts: usize, of_part: impl Fn(usize, &mut [T]) + Sync + Send) {
    let size = values.len() / parts.max(1);
    values.par_chunks_exact_mut(size.max(1)).enumerate().for_each(|(index, part)| of_part(index, part));
}

fn part_of(values: &[f32], parts: usize, index: usize) -> &[f32] {
    let size = values.len() / parts;
    &values[index * size..][..size]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_f64;
    use burn::tensor::Device;

    fn tensor(shape: [usize; 4], dtype: DType) -> Tensor<4> {
        let values: Vec<f64> = (0..shape.iter().product::<usize>()).map(|index| (index as f64 * 0.37).sin()).collect();
        Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), dtype))
    }

    #[test]
    fn a_pass_changes_each_part_by_its_own_of_the_others_and_leaves_what_others_hold() {
        let x = tensor([2, 3, 4, 5], DType::F32);
        let mask = tensor([2, 1, 4, 5], DType::F32);
        let kept = x.clone();
        let before = to_f64(x.clone());
        let new = pass(x, 2, vec![kept.clone(), mask.clone()], |index, part, others| {
            assert_eq!((part.len(), others[0].len(), others[1].len()), (60, 60, 20));
            part.iter_mut().zip(others[1].iter().cycle()).for_each(|(value, mask)| *value += mask + index as f32);
        });
        let mask = to_f64(mask);
        for (index, (new, before)) in to_f64(new).into_iter().zip(&before).enumerate() {
            let (image, place) = (index / 60, index % 20);
            assert!((new - (before + mask[20 * image + place] + image as f64)).abs() < 1e-6);
        }
        assert_eq!(to_f64(kept), before);
    }

    #[test]
    fn passes_are_for_single_precision_without_gradients() {
        assert!(can_pass(&tensor([1, 1, 1, 1], DType::F32)));
        assert!(!can_pass(&tensor([1, 1, 1, 1], DType::F64)));
        assert!(!can_pass(&tensor([1, 1, 1, 1], DType::F32).autodiff().require_grad()));
    }

    #[test]
    fn a_map_is_of_each_part_in_any_number_format() {
        struct Reversed;
        impl Map for Reversed {
            fn apply<T: Real>(&self, index: usize, part: &mut [T]) {
                if index % 2 == 1 {
                    part.reverse();
                }
            }
        }
        for dtype in [DType::F32, DType::F64] {
            let x = tensor([2, 3, 4, 5], dtype);
            let mut expected = to_f64(x.clone());
            expected.chunks_exact_mut(20).skip(1).step_by(2).for_each(<[f64]>::reverse);
            let new = mapped(x.clone(), 6, &Reversed);
            assert_eq!((new.dtype(), to_f64(new)), (dtype, expected));
            assert_eq!(to_f64(x), to_f64(tensor([2, 3, 4, 5], dtype)));
        }
    }
}
