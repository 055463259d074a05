exec(open('cmp.py').read().split("def both")[0].replace('ts.url','qs.url').replace('tp.url','qp.url'))
def token(x): return subprocess.check_output(['./cs','token',json.dumps(x)],text=True).strip()
T={}
def as_(r,t,i='a'): 
    k=(r,t,i); T.setdefault(k,token({'id':i,'role':r,'tenantId':t})); return T[k]
def C(u,who,m,p,b=None):
    global tok; tok=who
    return call(u,m,p,b)
def ev(u,who,q=''):
    s,t=C(u,who,'GET','/audit?limit=1000'+q)
    if s!=200: return s,t[-200:]
    return [(e['model'],e['primary_key'],e['operation']) for e in json.loads(t)['items']]
for n,u in (('sqlite',S),('pg',P)):
    print('=====',n)
    A,B=as_('aud','A'),as_('aud','B')
    for w,i in ((A,1),(B,2)):
        print(C(u,w,'POST','/custs',{'id':i,'name':'n','kind':'y'})[0],C(u,w,'POST','/accts',{'id':i,'custId':i,'bal':'1.5'})[0])
    print(C(u,A,'PATCH','/custs/2',{'name':'x'})[0],C(u,A,'DELETE','/accts/2')[0], C(u,A,'POST','/accts',{'id':9,'custId':2})[0])
    print('A sees',ev(u,A)); print('B sees',ev(u,B))
    print('anon role',ev(u,as_('x','A'),'&model=Cust'), ev(u,as_('x','A')))
    # move: B's customer to.. oversized
    print(C(u,B,'POST','/lens',{'id':1,'length':1,'big':'x'*70000})[0],C(u,B,'POST','/lens',{'id':2,'length':1,'big':'x'})[0],C(u,B,'POST','/lens',{'id':3,'length':11})[0])
    print('len',ev(u,as_('x','B'),'&model=Len'))
    for i,b in enumerate([{'owner':'bob'},{'owner':'al'},{'owner':None},{'owner':'zed'},{'owner':'al','f':5e-324,'bn':'9223372036854775807','dec':'1e0' if 0 else '123456789.123','dt':'0001-01-01T00:00:00Z','st':'y','secretish':'42'},{'owner':'al','f':1.7e308,'bn':'-9223372036854775808','dec':'-0.0000001','dt':'9999-12-31T00:00:00Z','st':'x'},{'owner':'al','f':1/3,'bn':'123456789012345678','st':'y'},{'owner':'al','f':-2.5e-7},{'owner':'al','f':123456789012345680.0}]):
        s,t=C(u,A,'POST','/negs',dict(b,id=i)); 
        if s>201: print(s,t)
    for r in ('aud','f','bn','dec','dt','st','sec'): print(r,sorted(x[1] for x in ev(u,as_(r,'A'),'&model=Neg')))
    for q in ('&key=2','&key=%5B%5D','&actor=a&from=9999-12-31T23:59:59Z','&to=0001-01-01T00:00:00Z','&actor=%22','&key='+'x'*7000,'&cursor=abc','&limit=0','&limit=1001','&model=cust','&model=','&from=2024','&key=%00','&key=%ff','&key=1&key=2','&model=Cust&key=2'):
        print(q[:30],str(ev(u,A,q))[:150])
