define internal void @matmul.loop0(ptr noalias readonly %a.A, ptr noalias readonly %a.B, ptr noalias %a.C, i64 %begin, i64 %end) nounwind {
entry:
  %v11 = mul i64 %begin, 65536
  %p12 = getelementptr i8, ptr %a.B, i64 %v11
  %v30 = mul i64 %begin, 128
  %p31 = getelementptr i8, ptr %a.C, i64 %v30
  %g.v1 = icmp slt i64 %begin, %end
  br i1 %g.v1, label %v1, label %v1.end
v1:
  %i.v1 = phi i64 [ %begin, %entry ], [ %n.v1, %v2.end ]
  %p13 = phi ptr [ %p12, %entry ], [ %p13.n, %v2.end ]
  %p32 = phi ptr [ %p31, %entry ], [ %p32.n, %v2.end ]
  br label %v2
v2:
  %i.v2 = phi i64 [ 0, %v1 ], [ %n.v2, %v3.end ]
  %p8 = phi ptr [ %a.A, %v1 ], [ %p8.n, %v3.end ]
  %p33 = phi ptr [ %p32, %v1 ], [ %p33.n, %v3.end ]
  br label %v3
v3:
  %i.v3 = phi i64 [ 0, %v2 ], [ %n.v3, %v3 ]
  %p9 = phi ptr [ %p8, %v2 ], [ %p9.n, %v3 ]
  %p14 = phi ptr [ %p13, %v2 ], [ %p14.n, %v3 ]
  %v4 = phi <16 x float> [ splat (float 0x0000000000000000), %v2 ], [ %v18, %v3 ]
  %v5 = phi <16 x float> [ splat (float 0x0000000000000000), %v2 ], [ %v21, %v3 ]
  %v6 = phi <16 x float> [ splat (float 0x0000000000000000), %v2 ], [ %v26, %v3 ]
  %v7 = phi <16 x float> [ splat (float 0x0000000000000000), %v2 ], [ %v27, %v3 ]
  %v10 = load float, ptr %p9, align 4
  %v15 = load <16 x float>, ptr %p14, align 4
  %v16 = insertelement <16 x float> poison, float %v10, i64 0
  %v17 = shufflevector <16 x float> %v16, <16 x float> poison, <16 x i32> zeroinitializer
  %v18 = call <16 x float> @llvm.fma.v16f32(<16 x float> %v17, <16 x float> %v15, <16 x float> %v4)
  %p19 = getelementptr i8, ptr %p14, i64 64
  %v20 = load <16 x float>, ptr %p19, align 4
  %v21 = call <16 x float> @llvm.fma.v16f32(<16 x float> %v17, <16 x float> %v20, <16 x float> %v5)
  %p22 = getelementptr i8, ptr %p9, i64 2048
  %v23 = load float, ptr %p22, align 4
  %v24 = insertelement <16 x float> poison, float %v23, i64 0
  %v25 = shufflevector <16 x float> %v24, <16 x float> poison, <16 x i32> zeroinitializer
  %v26 = call <16 x float> @llvm.fma.v16f32(<16 x float> %v25, <16 x float> %v15, <16 x float> %v6)
  %v27 = call <16 x float> @llvm.fma.v16f32(<16 x float> %v25, <16 x float> %v20, <16 x float> %v7)
  %n.v3 = add nuw nsw i64 %i.v3, 1
  %p9.n = getelementptr i8, ptr %p9, i64 4
  %p14.n = getelementptr i8, ptr %p14, i64 128
  %c.v3 = icmp slt i64 %n.v3, 512
  br i1 %c.v3, label %v3, label %v3.end
v3.end:
  %v28 = fcmp ogt <16 x float> splat (float 0x0000000000000000), %v18
  %v29 = select <16 x i1> %v28, <16 x float> splat (float 0x0000000000000000), <16 x float> %v18
  store <16 x float> %v29, ptr %p33, align 4
  %v34 = fcmp ogt <16 x float> splat (float 0x0000000000000000), %v21
  %v35 = select <16 x i1> %v34, <16 x float> splat (float 0x0000000000000000), <16 x float> %v21
  %p36 = getelementptr i8, ptr %p33, i64 64
  store <16 x float> %v35, ptr %p36, align 4
  %v37 = fcmp ogt <16 x float> splat (float 0x0000000000000000), %v26
  %v38 = select <16 x i1> %v37, <16 x float> splat (float 0x0000000000000000), <16 x float> %v26
  %p39 = getelementptr i8, ptr %p33, i64 256
  store <16 x float> %v38, ptr %p39, align 4
  %v40 = fcmp ogt <16 x float> splat (float 0x0000000000000000), %v27
  %v41 = select <16 x i1> %v40, <16 x float> splat (float 0x0000000000000000), <16 x float> %v27
  %p42 = getelementptr i8, ptr %p33, i64 320
  store <16 x float> %v41, ptr %p42, align 4
  %n.v2 = add nuw nsw i64 %i.v2, 1
  %p8.n = getelementptr i8, ptr %p8, i64 4096
  %p33.n = getelementptr i8, ptr %p33, i64 512
  %c.v2 = icmp slt i64 %n.v2, 2
  br i1 %c.v2, label %v2, label %v2.end
v2.end:
  %n.v1 = add nuw nsw i64 %i.v1, 1
  %p13.n = getelementptr i8, ptr %p13, i64 65536
  %p32.n = getelementptr i8, ptr %p32, i64 128
  %c.v1 = icmp slt i64 %n.v1, %end
  br i1 %c.v1, label %v1, label %v1.end
v1.end:
  ret void
}

define internal void @matmul.par0(ptr %env, i64 %begin, i64 %end) nounwind noinline optnone {
entry:
  %s0 = getelementptr i8, ptr %env, i64 0
  %e0 = load ptr, ptr %s0, align 8
  %s1 = getelementptr i8, ptr %env, i64 8
  %e1 = load ptr, ptr %s1, align 8
  %s2 = getelementptr i8, ptr %env, i64 16
  %e2 = load ptr, ptr %s2, align 8
  call void @matmul.loop0(ptr %e0, ptr %e1, ptr %e2, i64 %begin, i64 %end)
  ret void
}

define void @matmul(ptr %ctx, ptr noalias readonly %a.A, ptr noalias readonly %a.B, ptr noalias %a.C) nounwind noinline optnone {
entry:
  %v1 = alloca [3 x i64], align 16
  %v2 = getelementptr i8, ptr %v1, i64 0
  store ptr %a.A, ptr %v2, align 8
  %v3 = getelementptr i8, ptr %v1, i64 8
  store ptr %a.B, ptr %v3, align 8
  %v4 = getelementptr i8, ptr %v1, i64 16
  store ptr %a.C, ptr %v4, align 8
  %v5 = load ptr, ptr %ctx, align 8
  call void %v5(ptr %ctx, ptr @matmul.par0, ptr %v1, i64 2, i64 0)
  ret void
}
