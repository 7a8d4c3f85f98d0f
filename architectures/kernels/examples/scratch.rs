use burn::tensor::{Device, Distribution, Tensor, module};
use netkin_kernels::*;
use std::time::Instant;
fn time(name: &str, flops: f64, mut f: impl FnMut()) {
    for _ in 0..3 { f(); }
    let mut t = vec![];
    for _ in 0..15 { let s = Instant::now(); f(); t.push(s.elapsed().as_secs_f64()); }
    t.sort_by(f64::total_cmp);
    println!("{name}: {:.3} ms  {:.0} GFLOP/s", t[7]*1e3, flops/t[7]/1e9);
}
fn main() {
    unsafe { 
        unsafe extern "C" { fn mallopt(a: i32, b: i32) -> i32; }
        mallopt(-4, 0); mallopt(-1, i32::MAX); mallopt(-2, 64<<20);
    }
    let threads: usize = std::env::args().nth(1).map_or(2, |a| a.parse().unwrap());
    rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global().unwrap();
    let d = Device::flex();
    for (m,k,n) in [(1576,384,1536),(1576,1536,384),(1576,384,384),(1576,384,1152),(25088,96,384),(1024,1024,1024)] {
        let x = Tensor::<2>::random([m,k], Distribution::Default, &d);
        let w = Tensor::<2>::random([n,k], Distribution::Default, &d);
        let b = Tensor::<1>::random([n], Distribution::Default, &d);
        let fl = 2.0*(m*k*n) as f64;
        for act in [Activation::Identity, Activation::Gelu] {
        let l = Linear{bias:true,activation:act,scale:false,residual:false,trainable:false,cache:Cache::default()};
        time(&format!("ours {m} {k} {n} {act:?}"), fl, || { let _y: Tensor<2> = run(l.clone(), vec![x.clone().into_dispatch(), w.clone().into_dispatch(), b.clone().into_dispatch()]); });
        }
        time(&format!("burn {m} {k} {n}"), fl, || { let _y = module::linear(x.clone(), w.clone().transpose(), Some(b.clone())); });
    }
}
